"""The handler `sbc` and its cases: known posteriors, tables, refusals."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from evidentia.inference.density.log_density import compile_density
from evidentia.studies.harness.engine.outcome import Context, Problem
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers.calibration import sbc
from evidentia.studies.harness.handlers.calibration_cases import linear_case, logistic_case, schools_case

SMALL = {"num_datasets": 20, "num_draws": 9}


@pytest.fixture
def x():
    torch.set_default_dtype(torch.float64)
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def test_the_known_posterior_is_that_of_the_model(x):
    case = linear_case(x, 40_000)
    y = case.model(x)
    density = compile_density(case.model, x, y=y, num_chains=5, executor="fx")
    beta = torch.randn(5, 3)
    precision = torch.eye(3) + x.mT @ x
    posterior = MultivariateNormal(torch.linalg.solve(precision, x.mT @ y), precision_matrix=precision)
    # log p(beta, y) - log p(beta | y) is the evidence, whatever beta.
    evidence = density(beta) - posterior.log_prob(beta)
    torch.testing.assert_close(evidence, torch.full((5,), case.log_evidence(y)))
    draws = case.exact(x, y)["beta"]
    score = (draws.mean(0) - posterior.mean) / (posterior.variance / len(draws)).sqrt()
    assert float(score.abs().max()) < 4.5
    torch.testing.assert_close(draws.T.cov(), posterior.covariance_matrix, atol=0.01, rtol=0)


def test_the_wrong_sign_takes_twice_the_jacobian(x):
    right, wrong = schools_case(), schools_case(jacobian="wrong")
    y = right.model(*right.args)
    densities = [
        compile_density(case.model, *case.args, y=y, num_chains=4, executor="fx") for case in (right, wrong)
    ]
    position = torch.randn(4, densities[0].dim)
    tau = densities[0].unpack(position)["tau"]
    torch.testing.assert_close(densities[0](position) - densities[1](position), 2 * tau.log())


def test_rows_and_tables_of_exact_draws(x):
    outcome = sbc(Problem(None, linear_case(x)), SMALL | {"method": "exact"}, Context(seed=1))
    (row,) = outcome.rows
    assert row["kind"] == "exact"
    assert row["acceptance"] is None
    names = ["beta[0]", "beta[1]", "beta[2]", "log_likelihood", "log_prior"]
    assert list(outcome.tables["quantities"]["quantity"]) == names
    curves = outcome.tables["curves"]
    assert list(curves.columns) == ["place", "lower", "upper", *names]
    assert len(curves) == 9
    assert (outcome.tables["intervals"]["observed"].diff().iloc[1:] >= 0).all()


def test_refusals_name_what_is_missing(x):
    with pytest.raises(StudyError, match="needs a calibration case"):
        sbc(Problem(None, print), SMALL, Context(seed=0))
    with pytest.raises(StudyError, match="no method 'exact'"):
        sbc(Problem(None, logistic_case(x)), SMALL | {"method": "exact"}, Context(seed=0))
    with pytest.raises(StudyError, match="start"):
        sbc(Problem(None, logistic_case(x)), SMALL | {"start": "middle"}, Context(seed=0))
