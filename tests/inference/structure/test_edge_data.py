"""Data at the edge: rows that cannot be conditioned on, responses of other shapes, data of other problems."""

import math

import pytest
import torch

from evidentia.inference.structure.enumerate import enumerate_structures
from evidentia.inference.structure.gibbs import structure_gibbs
from evidentia.models.likelihood import Gaussian
from evidentia.models.regression import GPrior, NormalPrior, SubsetRegression
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant
from evidentia.models.structure.priors import Beta, GumbelSoftmax, RelaxedBernoulli


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(20, 2, dtype=torch.float64)
    return x, x[:, 0] + 0.3 * torch.randn(20, dtype=torch.float64)


def network():
    family = Family(2).edge(
        "x", "f", ops={"flat": Constant(), "line": GLM(bias=True)}, domain="simplex_vertex"
    )
    return family.model(likelihood=Gaussian(0.5))


@pytest.mark.parametrize("rows", [0, -1, 20, 2.5, True, "5"])
def test_conditional_rows_are_checked_at_once(data, rows) -> None:
    message = r"conditional_rows: expected an integer from 1 to 19 \(there are 20 rows\), got .* Fix: e.g. 10"
    for model, options in ((SubsetRegression("ab"), {}), (network(), {"evidence": "elbo", "num_steps": 1})):
        with pytest.raises(ValueError, match=message):
            enumerate_structures(model, *data, conditional_rows=rows, **options)


def test_a_sorted_response_leaves_the_table_whole(data) -> None:
    x, y = data[0], torch.cat([torch.ones(10, dtype=torch.float64), data[1][10:]])
    table = enumerate_structures(SubsetRegression("ab"), x, y).table()
    assert table["conditional_log_evidence"].isna().all()
    assert table["elpd_loo"].notna().all()
    with pytest.raises(
        ValueError, match=r"conditional_rows: rows=10, but .* is constant .* Fix: condition on"
    ):
        enumerate_structures(SubsetRegression("ab"), x, y, conditional_rows=10)
    with pytest.raises(ValueError, match=r"conditional_rows: rows=1, but .* 0 degrees of freedom"):
        structure_gibbs(
            SubsetRegression("ab"), x, y, num_sweeps=2, warmup_sweeps=0, num_chains=1, conditional_rows=1
        )
    proper = SubsetRegression("ab", GPrior(noise_shape=1.0, noise_rate=1.0))
    assert enumerate_structures(proper, x, y).table()["conditional_log_evidence"].notna().all()


def test_a_constant_response_is_named(data) -> None:
    with pytest.raises(ValueError, match="y is constant in all 20 rows"):
        enumerate_structures(SubsetRegression("ab"), data[0], torch.full((20,), 0.1))
    posterior = enumerate_structures(SubsetRegression("ab", NormalPrior()), data[0], torch.ones(20))
    assert math.isfinite(posterior.table()["log_evidence"][0])


def test_a_column_for_a_response_is_refused_everywhere_in_the_same_words(data) -> None:
    x, y = data[0], data[1][:, None]
    subset, family = SubsetRegression("ab", NormalPrior()), network()
    posterior = enumerate_structures(subset, *data)
    exported = posterior.export()
    calls = [
        lambda: subset(x, y),
        lambda: subset.conjugate(x, y),
        lambda: family(x, y),
        lambda: exported.pair.model(x, y),
        lambda: exported.retrain(x, y),
        lambda: posterior.to_idata(x, y),
        lambda: structure_gibbs(subset, x, y),
        *(lambda m=m: enumerate_structures(m, x, y) for m in (subset, family)),
        lambda: enumerate_structures(family, x, y, evidence="elbo", num_steps=1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"'y' has shape \(20, 1\), expected \(20,\) .* Fix: flatten"):
            call()


def posteriors(x, y):
    subset, options = SubsetRegression("ab", NormalPrior()), {"evidence": "elbo", "num_steps": 2}
    return [
        enumerate_structures(subset, x, y),
        structure_gibbs(subset, x, y, num_sweeps=3, warmup_sweeps=0, num_chains=1),
        enumerate_structures(network(), x, y),
        enumerate_structures(network(), x, y, conditional=False, **options),
    ]


def test_inference_data_are_made_with_the_posteriors_own_data(data) -> None:
    x, y = data
    other_x, other_y = x.clone(), y.clone()
    other_x[3, 1], other_y[7:9] = 5.0, 2.0
    for posterior in posteriors(x, y):
        for args, message in (
            (
                (other_x, y),
                r"x is not .*: 1 of 40 values differ, the first in row 3, column 1: got 5, expected",
            ),
            (
                (x, other_y),
                r"y is not that of the posterior: 2 of 20 values differ, the first in row 7: got 2",
            ),
            ((x[:15], y[:15]), r"x has shape \(15, 2\), expected \(20, 2\), that of the posterior. Fix"),
        ):
            with pytest.raises(ValueError, match=message):
                posterior.to_idata(*args, num_draws=2, prior_draws=2)
        idata = posterior.to_idata(x.float(), y.float(), num_draws=4, prior_draws=2)
        assert idata.posterior.sizes["draw"] in (3, 4)


RELAXED = {
    "simplex": GumbelSoftmax(0.5, [1.0, 3.0]),
    "cube": RelaxedBernoulli(0.5, [0.2, 0.7]),
    "cube, beta": Beta(0.5, [1.0, 3.0], 1.0),
}


@pytest.mark.parametrize("name", RELAXED)
def test_the_prior_of_a_relaxed_enumeration_is_on_vertices_too(data, name: str) -> None:
    ops, domain = {"a": GLM(columns=[0]), "b": GLM(columns=[1])}, name.partition(",")[0]
    family = Family(2).edge("x", "f", ops=ops, domain=domain, prior=RELAXED[name])
    posterior = enumerate_structures(family.model(likelihood=Gaussian(0.5)), *data)
    idata = posterior.to_idata(*data, num_draws=20, prior_draws=2000)
    gate = torch.as_tensor(idata.prior["gate"].values[0])
    assert gate.dtype == torch.int8
    mass = family.log_prior(family.vertices().double()).exp()
    expected = mass @ family.vertices().double()
    error = (expected * (1 - expected) / 2000).sqrt()
    assert bool(((gate.double().mean(0) - expected).abs() < 4.5 * error).all())
    # weights and responses are those of the drawn gates
    weight = [torch.as_tensor(idata.prior[f"w.x->f.{op}.weight"].values[0]).reshape(2000, 1) for op in "ab"]
    mean = (gate * torch.cat(weight, -1)) @ data[0].T
    residual = torch.as_tensor(idata.prior_predictive["obs"].values[0]) - mean
    assert residual.std().item() == pytest.approx(0.5, rel=0.03)
