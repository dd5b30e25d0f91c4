"""Exact enumeration: goldens on diabetes, invariances, ties, errors, weights and predictions."""

import math

import oracles
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from sklearn.datasets import load_diabetes

from evidentia.inference.structure.enumerate import enumerate_structures
from evidentia.inference.structure.linear import linear_problem, predict, sample_weights
from evidentia.inference.structure.posterior import StructurePosterior
from evidentia.models.hyper import Hyper
from evidentia.models.likelihood import Bernoulli as BernoulliResponse
from evidentia.models.likelihood import Categorical as CategoricalResponse
from evidentia.models.likelihood import Gaussian, Poisson
from evidentia.models.regression import GPrior, NormalInverseGamma, NormalPrior, SubsetRegression
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant, Zero
from evidentia.models.structure.priors import Bernoulli, BetaBinomial, Categorical
from evidentia.models.structure.structure import Structure
from evidentia.models.structure.weights import ARD

SETTINGS = {
    "g-prior, uniform": (GPrior(), Bernoulli(0.5)),
    "g-prior, beta-binomial": (GPrior(), BetaBinomial(1, 1)),
    "N(0,1), uniform": (NormalPrior(1.0, math.sqrt(oracles.DIABETES_NOISE_VARIANCE)), Bernoulli(0.5)),
}


@pytest.fixture(scope="module")
def diabetes():
    bunch = load_diabetes()
    x, y = bunch.data, bunch.target
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std(), list(bunch.feature_names)


@pytest.fixture
def small():
    torch.manual_seed(2)
    x = torch.randn(15, 3, dtype=torch.float64)
    return x, x[:, 0] - 0.3 * x[:, 2] + 0.5 * torch.randn(15, dtype=torch.float64)


@pytest.mark.parametrize("name", SETTINGS)
def test_diabetes_inclusion_probabilities(name, diabetes):
    x, y, names = diabetes
    posterior = enumerate_structures(SubsetRegression(names, *SETTINGS[name]), x, y)
    inclusion = posterior.inclusion()
    assert inclusion["op"].tolist() == names
    assert inclusion["probability"].tolist() == pytest.approx(oracles.DIABETES_INCLUSION[name], abs=1e-4)
    assert posterior.kind == "exact"
    assert float(posterior.probability.sum()) == pytest.approx(1.0)


def test_diabetes_log_z_under_independent_normal_coefficients(diabetes):
    x, y, names = diabetes
    posterior = enumerate_structures(SubsetRegression(names, *SETTINGS["N(0,1), uniform"]), x, y)
    log_z = torch.logsumexp(posterior.log_evidence + posterior.log_prior, 0)
    assert float(log_z) == pytest.approx(oracles.DIABETES_LOG_Z_NORMAL, abs=5e-3)


def test_table_is_sorted_and_scores_only_its_rows(diabetes):
    x, y, names = diabetes
    posterior = enumerate_structures(SubsetRegression(names), x, y)
    table = posterior.table(top=3)
    assert table["structure"].tolist() == [
        "{sex, bmi, bp, s3, s5}",
        "{sex, bmi, bp, s1, s2, s5}",
        "{sex, bmi, bp, s1, s4, s5}",
    ]
    assert table["probability"].tolist() == pytest.approx(oracles.DIABETES_TOP_PROBABILITY, abs=1e-4)
    assert table["num_parameters"].tolist() == [5, 6, 6]
    assert table.columns.tolist() == [
        "structure",
        "log_evidence",
        "standard_error",
        "kind",
        "log_prior",
        "probability",
        "probability_se",
        "num_parameters",
        "conditional_log_evidence",
        "elpd_loo",
        "elpd_loo_se",
        "bic_log_bayes_factor",
    ]
    chosen = posterior.problem.design[:, [1, 2, 3, 6, 8]]
    y = posterior.problem.y
    residual = y - chosen @ torch.linalg.lstsq(chosen, y[:, None]).solution[:, 0]
    bic = -0.5 * (442 * torch.log(residual.square().sum() / y.square().sum()) + 5 * math.log(442))
    assert table["bic_log_bayes_factor"][0] == pytest.approx(float(bic), rel=1e-10)
    problem = posterior.problem
    gates = posterior.family.structure("{sex, bmi, bp, s3, s5}").gates[None]
    pointwise = problem.log_predictive_loo(gates)[0]
    assert table["elpd_loo"][0] == pytest.approx(float(pointwise.sum()))
    assert table["elpd_loo_se"][0] == pytest.approx(float(pointwise.std() * math.sqrt(442)))
    assert table["conditional_log_evidence"][0] == pytest.approx(
        float(problem.log_evidence_conditional(gates, 221)[0])
    )
    without = enumerate_structures(SubsetRegression(names), x, y, conditional=False).table(top=1)
    assert math.isnan(without["elpd_loo"][0])


def family(ops, domain, prior=None, inputs=3):
    return Family(inputs).edge("x", "f", ops=ops, domain=domain, prior=prior)


def test_family_on_the_cube_equals_subset_regression(small):
    x, y = small
    ops = {name: GLM(columns=[i]) for i, name in enumerate("abc")}
    model = family(ops, "cube_vertex", BetaBinomial()).model(likelihood=Gaussian(0.6), weight_prior=ARD(0.8))
    other = SubsetRegression("abc", NormalPrior(0.8, 0.6), BetaBinomial())
    left, right = enumerate_structures(model, x, y), enumerate_structures(other, x, y)
    torch.testing.assert_close(left.log_evidence, right.log_evidence)
    torch.testing.assert_close(left.probability, right.probability)


def test_operations_with_several_columns_on_both_domains(small):
    """Every vertex against the dense normal density of its own design."""
    x, y = small
    ops = {"flat": Constant(), "line": GLM(columns=[0], bias=True), "none": Zero(1), "full": GLM()}
    columns = {"flat": [3], "line": [0, 3], "none": [], "full": [0, 1, 2]}
    wide = torch.cat([x, torch.ones(15, 1, dtype=torch.float64)], 1)
    for domain in ("simplex_vertex", "cube_vertex"):
        fam = family(ops, domain)
        posterior = enumerate_structures(
            fam.model(likelihood=Gaussian(0.6), weight_prior=ARD(0.8)), x, y, conditional=False
        )
        for gates, value in zip(posterior.gates, posterior.log_evidence, strict=True):
            chosen = fam.structure(gates).choices["x->f"]
            design = torch.cat([wide[:, columns[op]] for op in chosen] + [wide[:, :0]], 1)
            cov = 0.36 * torch.eye(15, dtype=torch.float64) + 0.64 * design @ design.T
            expected = torch.distributions.MultivariateNormal(torch.zeros(15).double(), cov).log_prob(y)
            assert float(value) == pytest.approx(float(expected), rel=1e-10)


def test_exact_evidence_equals_the_integral_of_the_family_model(small):
    """p(y) by quadrature over the single weight of the Pyro program."""
    x, y = small
    fam = family({"one": GLM(columns=[0]), "two": GLM(columns=[2])}, "simplex_vertex")
    model = fam.model(likelihood=Gaussian(0.6), weight_prior=ARD(0.8))
    grid = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    posterior = enumerate_structures(model, x, y)
    for index in range(2):
        sites = {"gamma/x->f": torch.tensor(index)}
        for i, name in enumerate(("one", "two")):
            value = grid if i == index else torch.zeros_like(grid)
            sites[f"w/x->f/{name}/weight"] = value[:, None, None]
        with pyro.plate("grid", len(grid), dim=-2):
            trace = poutine.trace(poutine.condition(model, sites)).get_trace(x, y)
        trace.compute_log_prob()
        name = ("one", "two")[index]
        log_joint = trace.nodes[f"w/x->f/{name}/weight"]["log_prob"].reshape(-1)
        log_joint = log_joint + trace.nodes["obs"]["log_prob"].sum(-1)
        integral = torch.logsumexp(log_joint, 0) + math.log(12 / 1200)
        assert float(posterior.log_evidence[index]) == pytest.approx(float(integral), abs=1e-8)


# ---- invariances


@pytest.mark.parametrize("name", ["g-prior, uniform", "N(0,1), uniform"])
def test_permuting_features_permutes_inclusion(name, diabetes):
    x, y, names = diabetes
    order = [3, 1, 4, 0, 9, 2, 6, 5, 8, 7]
    plain = enumerate_structures(SubsetRegression(names, *SETTINGS[name]), x, y).inclusion()["probability"]
    permuted = SubsetRegression([names[i] for i in order], *SETTINGS[name])
    moved = enumerate_structures(permuted, x[:, order], y).inclusion()["probability"]
    assert moved.tolist() == pytest.approx(plain[order].tolist(), abs=1e-10)


def test_o30_duplicating_a_base_function_halves_each_copy_and_is_reported(small):
    x, y = small
    ops = {"flat": Constant(), "line": GLM()}
    one = enumerate_structures(family(ops, "simplex_vertex").model(likelihood=Gaussian(0.6)), x, y)
    twice = {**ops, "copy": GLM()}
    # the copies share the prior mass of the original
    prior = Categorical([0.5, 0.25, 0.25])
    two = enumerate_structures(family(twice, "simplex_vertex", prior).model(likelihood=Gaussian(0.6)), x, y)
    assert float(two.log_evidence[1] - two.log_evidence[2]) == pytest.approx(0.0, abs=1e-10)
    assert two.probability[1:].tolist() == pytest.approx([float(one.probability[1]) / 2] * 2, abs=1e-10)
    assert two.ties() == [("line", "copy")]
    assert one.ties() == []


def test_an_operation_without_effect_only_takes_prior_mass(small):
    x, y = small
    ops = {name: GLM(columns=[i]) for i, name in enumerate("abc")}
    model = family(ops, "cube_vertex").model(likelihood=Gaussian(0.6))
    more = family({**ops, "idle": Zero(1)}, "cube_vertex").model(likelihood=Gaussian(0.6))
    plain, wide = enumerate_structures(model, x, y), enumerate_structures(more, x, y)
    torch.testing.assert_close(wide.log_evidence[:8], plain.log_evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(wide.probability.reshape(2, 8).sum(0), plain.probability, rtol=0, atol=1e-10)
    assert wide.inclusion()["probability"][3] == pytest.approx(0.5, abs=1e-10)
    assert len(wide.ties()) == 8


# ---- errors of inclusion and of sampling


def test_inclusion_errors_follow_the_delta_method(small):
    x, y = small
    exact = enumerate_structures(SubsetRegression("abc", NormalPrior(1.0, 0.5)), x, y)
    error = torch.linspace(0.01, 0.08, 8).double()
    noisy = StructurePosterior(
        exact.family, exact.gates, exact.log_evidence, error, "consistent estimate", exact.log_prior
    )
    gates = exact.gates.double()
    jacobian = torch.autograd.functional.jacobian(
        lambda v: torch.softmax(v + exact.log_prior, 0) @ gates, exact.log_evidence
    )
    expected = (jacobian * error).square().sum(1).sqrt()
    assert noisy.inclusion()["standard_error"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert noisy.evidence(0).kind == "consistent estimate"


@pytest.mark.statistical
def test_sampled_structures_and_weights_reproduce_the_posterior(small):
    x, y = small
    model = SubsetRegression("abc", NormalInverseGamma(1.0, 2.0, 1.0), BetaBinomial())
    posterior = enumerate_structures(model, x, y)
    gates = posterior.sample(20_000, seed=3)
    exact = torch.tensor(posterior.inclusion()["probability"].to_numpy())
    z = (gates.double().mean(0) - exact) / (exact * (1 - exact) / 20_000).sqrt()
    assert bool((z.abs() < 4.5).all())
    sites = sample_weights(model, x, y, gates, seed=4)
    assert {name: tuple(v.shape) for name, v in sites.items()} == {
        "gamma/x->f/a": (20_000,),
        "gamma/x->f/b": (20_000,),
        "gamma/x->f/c": (20_000,),
        "w/x->f": (20_000, 3),
        "variance": (20_000,),
    }
    fitted = (gates.double() * sites["w/x->f"]) @ x.T
    averaged = predict(posterior, x)
    z = (fitted.mean(0) - averaged.mean) / (fitted.std(0) / math.sqrt(20_000))
    assert bool((z.abs() < 4.5).all())


def test_posterior_draws_drive_predictive(small):
    x, y = small
    for model in (
        SubsetRegression("abc", GPrior()),
        family({"flat": Constant(), "line": GLM(bias=True)}, "simplex_vertex").model(
            likelihood=Gaussian(0.6)
        ),
        family({"flat": Constant(), "line": GLM(bias=True)}, "cube_vertex").model(likelihood=Gaussian(0.6)),
    ):
        posterior = enumerate_structures(model, x, y)
        sites = sample_weights(model, x, y, posterior.sample(6))
        assert Predictive(model, sites)(x)["obs"].shape == (6, 15)


def test_averaged_prediction_is_the_weighted_sum_of_the_structures(small):
    x, y = small
    posterior = enumerate_structures(SubsetRegression("abc", GPrior()), x, y)
    new = torch.tensor([[0.3, -1.0, 2.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    expected = torch.zeros(2).double()
    for gates, probability in zip(posterior.gates.bool(), posterior.probability, strict=True):
        centred = (x - x.mean(0))[:, gates]
        beta = 15 / 16 * torch.linalg.lstsq(centred, y[:, None]).solution[:, 0] if gates.any() else y[:0]
        expected += probability * (y.mean() + (new - x.mean(0))[:, gates] @ beta)
    got = predict(posterior, new)
    torch.testing.assert_close(got.mean, expected, rtol=1e-7, atol=1e-9)
    assert bool((got.between > 0).all())


# ---- refusals


def test_too_many_structures_name_the_limit_and_the_way_out():
    model = SubsetRegression([f"c{i}" for i in range(64)])
    with pytest.raises(
        ValueError, match=r"1.845e\+19 structures, more than max_structures=1048576; use structure_gibbs"
    ):
        enumerate_structures(model, torch.zeros(70, 64), torch.zeros(70))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda f: f.model(likelihood=Poisson()), "needs a Gaussian likelihood, got Poisson"),
        (lambda f: f.model(likelihood=Gaussian(Hyper(0.5))), "needs a fixed noise scale"),
        (
            lambda f: f.model(likelihood=Gaussian(0.5), weight_prior=ARD(shape=1, rate=1)),
            r"needs ARD\(scale\)",
        ),
        (lambda f: f.model(likelihood=Gaussian(0.5), structure=0), "structure of this model is fixed"),
        (lambda f: torch.nn.Linear(1, 1), "expected a SubsetRegression or the model of a Family, got Linear"),
        (
            lambda f: family({"t": GLM(activation="tanh")}, "simplex_vertex").model(likelihood=Gaussian(0.5)),
            "operation 't' .* not linear",
        ),
    ],
)
def test_models_without_a_closed_form_say_why(model, message, small):
    fam = family({"flat": Constant(), "line": GLM()}, "simplex_vertex")
    with pytest.raises(ValueError, match=message):
        enumerate_structures(model(fam), *small)


def test_data_are_checked_with_the_names_of_the_columns(small):
    x, y = small
    broken = x.clone()
    broken[4, 1] = math.nan
    with pytest.raises(ValueError, match="row 4, column 'b'"):
        enumerate_structures(SubsetRegression("abc"), broken, y)
    collinear = torch.cat([x[:, :2], x[:, :1] + x[:, 1:2]], 1)
    with pytest.raises(ValueError, match="column 'c' is a linear combination"):
        enumerate_structures(SubsetRegression("abc"), collinear, y)
    proper = enumerate_structures(SubsetRegression("abc", NormalPrior()), collinear, y)
    assert bool(torch.isfinite(proper.log_evidence).all())
    with pytest.raises(ValueError, match="One response per row"):
        linear_problem(SubsetRegression("abc"), x, torch.stack([y, y], 1))


def test_options_are_checked(small):
    with pytest.raises(ValueError, match="evidence must be"):
        enumerate_structures(SubsetRegression("abc"), *small, evidence="bic")
    with pytest.raises(ValueError, match=r"\['num_steps'\] have no meaning"):
        enumerate_structures(SubsetRegression("abc"), *small, num_steps=3)


def test_a_posterior_without_its_conjugate_problem_cannot_predict(small):
    exact = enumerate_structures(SubsetRegression("abc"), *small)
    parts = (exact.family, exact.gates, exact.log_evidence, exact.standard_error, "exact")
    with pytest.raises(ValueError, match="not of a linear model"):
        predict(StructurePosterior(*parts, exact.log_prior), small[0])
    with pytest.raises(ValueError, match=r"log_prior has shape \(2,\), expected \(8,\)"):
        StructurePosterior(*parts, torch.zeros(2))


def test_networks_are_enumerated_by_their_bounds_and_exported_with_their_guide():
    """A linear family scored both ways: the bound lies below the exact evidence, within its gap."""
    torch.manual_seed(0)
    x = torch.randn(20, 1, dtype=torch.float64)
    y = x[:, 0] + 0.5 * torch.randn(20, dtype=torch.float64)
    fam = family({"flat": Constant(), "line": GLM()}, "simplex_vertex", inputs=1)
    model = fam.model(likelihood=Gaussian(0.5))
    exact = enumerate_structures(model, x, y)
    bound = enumerate_structures(model, x, y, evidence="elbo", num_steps=200)
    assert bound.kind == "lower bound"
    gap = exact.log_evidence - bound.log_evidence
    assert bool(((gap > -4.5 * bound.standard_error - 1e-3) & (gap < 0.5)).all())
    assert bound.export().structure == exact.map


def test_an_exported_subset_predicts_as_its_posterior_mean_and_retrains_exactly():
    torch.manual_seed(1)
    x = torch.randn(30, 3, dtype=torch.float64) + 1
    y = x[:, 0] - x[:, 2] + 0.3 * torch.randn(30, dtype=torch.float64) + 2
    posterior = enumerate_structures(SubsetRegression("abc"), x, y)
    exported = posterior.export()
    assert exported.structure.label == "{a, c}"
    assert Structure.from_genotype(exported.genotype) == exported.structure
    mean = posterior.problem.posterior_mean(exported.structure.gates[None].double())
    expected = mean.intercept + x @ mean.weight[0]
    torch.testing.assert_close(exported.to_module()(x)[:, 0].detach(), expected)
    again = exported.retrain(x[:15], y[:15])
    half = enumerate_structures(SubsetRegression("abc"), x[:15], y[:15]).export("{a, c}")
    torch.testing.assert_close(again.pair.guide.loc, half.pair.guide.loc)
    assert posterior.export("{}").to_module()(x)[:, 0].detach().allclose(y.mean())


@pytest.mark.slow
def test_a_million_structures_of_twenty_columns():
    torch.manual_seed(0)
    x = torch.randn(200, 20, dtype=torch.float64)
    y = 0.4 * x[:, :4].sum(1) + torch.randn(200, dtype=torch.float64)
    posterior = enumerate_structures(
        SubsetRegression([f"c{i}" for i in range(20)], GPrior(), BetaBinomial()), x, y
    )
    assert len(posterior.gates) == 2**20
    assert posterior.map.label == "{c0, c1, c2, c3}"
    some = torch.randint(2**20, (500,))
    torch.testing.assert_close(
        posterior.log_evidence[some], posterior.problem.log_evidence(posterior.gates[some]), rtol=0, atol=1e-9
    )


def test_an_exact_family_exports_its_exact_posterior_mean():
    torch.manual_seed(2)
    x = torch.randn(25, 2, dtype=torch.float64)
    y = x[:, 0] + 1 + 0.5 * torch.randn(25, dtype=torch.float64)
    fam = family({"flat": Constant(), "line": GLM(bias=True)}, "simplex_vertex", inputs=2)
    posterior = enumerate_structures(fam.model(likelihood=Gaussian(0.5)), x, y)
    assert float(posterior.probability.max()) > 1 - 1e-9
    fitted = posterior.export().to_module()(x)[:, 0].detach()
    torch.testing.assert_close(fitted, predict(posterior, x).mean, rtol=1e-7, atol=1e-7)


def test_networks_with_a_scalar_weight_are_scored_with_their_tail_and_exported():
    torch.manual_seed(2)
    x = torch.randn(20, 2, dtype=torch.float64)
    y = x[:, 0] + 0.5 * torch.randn(20, dtype=torch.float64)
    fam = family({"flat": Constant(), "line": GLM(bias=True)}, "simplex_vertex", inputs=2)
    posterior = enumerate_structures(
        fam.model(likelihood=Gaussian(0.5)), x, y, evidence="importance", num_steps=100, chunk_size=1
    )
    assert "pareto_k" in posterior.table(top=1)
    assert "pareto_k" in posterior.evidence(0).diagnostics
    assert posterior.export("line").to_module()(x).shape == (20, 1)


@pytest.mark.parametrize(
    ("law", "response"),
    [(BernoulliResponse(), [-1.0, 1.0]), (Poisson(), [0.5, 2.0]), (CategoricalResponse(), [1.0, 2.0])],
    ids=lambda value: type(value).__name__,
)
def test_a_response_outside_the_support_is_refused(law, response):
    x = torch.randn(2, 2, dtype=torch.float64)
    ops = {"flat": Constant(units=2)} if isinstance(law, CategoricalResponse) else {"flat": Constant()}
    model = family(ops, "simplex_vertex", inputs=2).model(likelihood=law)
    with pytest.raises(ValueError, match="outside the support of the likelihood"):
        enumerate_structures(model, x, torch.tensor(response), evidence="elbo", num_steps=1)


@pytest.mark.parametrize(
    "option",
    [{"num_particles": 0}, {"learning_rate": -1.0}, {"window": 0}, {"evidence_particles": 0}],
    ids=str,
)
def test_training_options_are_checked(option):
    model = family({"flat": Constant()}, "simplex_vertex", inputs=1).model(likelihood=Gaussian(0.5))
    with pytest.raises(ValueError, match=next(iter(option))):
        enumerate_structures(model, torch.ones(4, 1), torch.ones(4), evidence="elbo", **option)


def test_data_frames_are_read():
    import pandas as pd

    x = pd.DataFrame({"a": [1.0, 2.0, 4.0, 3.0], "b": [0.0, 1.0, 0.0, 2.0]})
    assert enumerate_structures(SubsetRegression("ab", NormalPrior()), x, 3 * x["a"]).map.label == "{a}"


@pytest.mark.parametrize("domain", ["simplex", "cube"])
def test_an_exact_relaxed_family_becomes_inference_data(domain):
    torch.manual_seed(2)
    x = torch.randn(20, 2, dtype=torch.float64)
    y = x[:, 0] + 0.5 * torch.randn(20, dtype=torch.float64)
    fam = family({"a": GLM(columns=[0]), "b": GLM(columns=[1])}, domain, inputs=2)
    posterior = enumerate_structures(fam.model(likelihood=Gaussian(0.5)), x, y)
    idata = posterior.to_idata(x, y, num_draws=50, prior_draws=10)
    assert bool(torch.isfinite(torch.as_tensor(idata.log_likelihood["obs"].values)).all())
    assert set(idata.posterior["gate"].values.ravel().tolist()) <= {0, 1}
