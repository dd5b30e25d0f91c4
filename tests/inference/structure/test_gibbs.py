"""Collapsed structure Gibbs: sweeps against enumeration, invariance, bitwise resume, the MCMC adapter."""

import math

import numpy as np
import oracles
import pytest
import torch
from pyro.infer import MCMC
from sklearn.datasets import load_diabetes

from evidentia.inference.mcmc.kernel import Kernel
from evidentia.inference.structure.batch_means import batch_means_error
from evidentia.inference.structure.enumerate import enumerate_structures
from evidentia.inference.structure.gibbs import structure_gibbs
from evidentia.inference.structure.gibbs_kernel import StructureGibbs
from evidentia.inference.structure.gibbs_step import init, make_target, step
from evidentia.inference.structure.gibbs_target import CachedTarget, ConjugateTarget, prior_gain
from evidentia.inference.structure.linear import predict
from evidentia.inference.structure.tableau import flip, here, neighbours, start
from evidentia.models.likelihood import Gaussian
from evidentia.models.linear.blocks import augment, blocks
from evidentia.models.regression import GPrior, NormalInverseGamma, NormalPrior, SubsetRegression
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant
from evidentia.models.structure.priors import Bernoulli, BetaBinomial, Categorical

NOISE = math.sqrt(oracles.DIABETES_NOISE_VARIANCE)
SETTINGS = {
    "g-prior, uniform": (GPrior(), Bernoulli(0.5)),
    "g-prior, beta-binomial": (GPrior(), BetaBinomial(1, 1)),
    "N(0,1), uniform": (NormalPrior(1.0, NOISE), Bernoulli(0.5)),
}


@pytest.fixture(scope="module")
def diabetes():
    bunch = load_diabetes()
    x, y = bunch.data, bunch.target
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std(), list(bunch.feature_names)


@pytest.fixture
def small():
    torch.manual_seed(2)
    x = torch.randn(12, 3, dtype=torch.float64)
    x[:, 2] += x[:, 0]
    return x, 0.4 * x[:, 0] + torch.randn(12, dtype=torch.float64)


def subsets(count):
    return ((torch.arange(2**count)[:, None] >> torch.arange(count)) & 1).double()


# ---- the tableau


def random_matrix(columns=5):
    torch.manual_seed(1)
    design = torch.randn(30, columns, dtype=torch.float64)
    y = torch.randn(30, dtype=torch.float64)
    return augment(design.T @ design, design.T @ y, y @ y)


def test_neighbours_of_the_tableau_are_the_blocks_of_the_flipped_gates():
    matrix, gates = random_matrix(), subsets(5)
    near = neighbours(start(matrix, gates))
    flipped = (gates[:, None, :] - torch.eye(5).double()).abs().reshape(-1, 5)
    for got, expected in zip(near, blocks(matrix, flipped), strict=True):
        torch.testing.assert_close(got.reshape(-1), expected)
    for got, expected in zip(here(start(matrix, gates)), blocks(matrix, gates), strict=True):
        torch.testing.assert_close(got, expected)


def test_flips_update_the_tableau_and_leave_inactive_chains_alone():
    matrix, gates = random_matrix(), subsets(5)
    torch.manual_seed(0)
    tableau = start(matrix, gates)
    for _ in range(20):
        index, active = torch.randint(5, (32,)), torch.rand(32) < 0.7
        tableau = flip(tableau, index, active)
        rows = torch.arange(32)[active]
        gates[rows, index[active]] = 1 - gates[rows, index[active]]
    fresh = start(matrix, gates)
    assert torch.equal(tableau.gates, gates)
    torch.testing.assert_close(tableau.matrix, fresh.matrix)
    torch.testing.assert_close(tableau.log_det, fresh.log_det)


@pytest.mark.parametrize(
    "prior", [Bernoulli([0.1, 0.5, 0.8]), BetaBinomial(1, 3), BetaBinomial(1, 1)], ids=repr
)
def test_prior_gain_is_the_difference_of_the_log_masses(prior):
    gates = subsets(3)
    flipped = (gates[:, None, :] - torch.eye(3).double()).abs()
    expected = prior.log_mass(flipped) - prior.log_mass(gates)[:, None]
    torch.testing.assert_close(prior_gain(prior, 3)(gates), expected)


# ---- invariance: chains started in the posterior stay in it


TARGETS = {
    "tableau, Bernoulli": SubsetRegression("abc", GPrior(), Bernoulli([0.2, 0.5, 0.7])),
    "tableau, beta-binomial": SubsetRegression("abc", NormalInverseGamma(1.0, 2.0, 1.0), BetaBinomial(1, 3)),
    "cache, cube": "cube",
    "cache, simplex": "simplex",
    "cache, two edges": "two edges",
}


def target_of(name, x, y):
    """Target, family, and the exact log joint of every vertex."""
    model = TARGETS[name]
    if isinstance(model, SubsetRegression):
        target, _ = make_target(model, x, y)
        assert isinstance(target, ConjugateTarget)
        return target, model.family
    ops = {"flat": Constant(), "line": GLM(columns=[0]), "more": GLM(columns=[0, 2], bias=True)}
    if name == "cache, two edges":
        family = Family(3).edge(
            "x", "h", ops=ops, domain="simplex_vertex", prior=Categorical([0.2, 0.5, 0.3])
        )
        family.edge("h", "f", ops={"a": GLM(), "b": GLM(activation="tanh")}, domain="cube_vertex")
        table = torch.randn(family.num_structures, generator=torch.Generator().manual_seed(0)).double()
        vertices = family.vertices()
        return CachedTarget(family, lambda g: table[(g[:, None] == vertices).all(-1).int().argmax(1)]), family
    if name == "cache, cube":
        family = Family(3).edge("x", "f", ops=ops, domain="cube_vertex", prior=Bernoulli([0.3, 0.5, 0.6]))
    else:
        family = Family(3).edge(
            "x", "f", ops=ops, domain="simplex_vertex", prior=Categorical([0.2, 0.5, 0.3])
        )
    target, _ = make_target(family.model(likelihood=Gaussian(1.0)), x, y)
    assert isinstance(target, CachedTarget)
    return target, family


@pytest.mark.statistical
@pytest.mark.parametrize("name", TARGETS)
def test_one_sweep_leaves_the_posterior_invariant(name, small):
    """30 000 chains started in the exact posterior: the counts of all structures stay within 4.5 s.e."""
    target, family = target_of(name, *small)
    vertices, chains = family.vertices().double(), 30_000
    joint = target.log_evidence(vertices) + family.log_prior(vertices)
    probability = torch.softmax(joint, 0)
    torch.manual_seed(7)
    rows = torch.multinomial(probability, chains, replacement=True)
    state = init(vertices[rows], target, family, torch.Generator().manual_seed(8).get_state())
    moved, info = step(state, target, family)
    assert float(info.changes.mean()) > 0.2
    counts = (moved.position[:, None] == vertices).all(-1).double().mean(0)
    z = (counts - probability) / (probability * (1 - probability) / chains).sqrt()
    assert bool((z.abs() < 4.5).all()), z
    torch.testing.assert_close(moved.log_evidence, target.log_evidence(moved.position))
    torch.testing.assert_close(moved.log_density, moved.log_evidence + family.log_prior(moved.position))


@pytest.mark.statistical
def test_the_sweep_that_skips_has_the_transition_matrix_of_the_sequential_sweep(small):
    """From one start, the law after one sweep is the average over all orders of the exact conditionals."""
    from itertools import permutations

    target, family = target_of("tableau, Bernoulli", *small)
    vertices = family.vertices().double()
    joint = target.log_evidence(vertices) + family.log_prior(vertices)
    expected = torch.zeros(8).double()
    for order in permutations(range(3)):
        law = torch.zeros(8).double()
        law[5] = 1.0
        for gate in order:
            pair = torch.stack([joint, joint[torch.arange(8) ^ (1 << gate)]])
            stay = torch.softmax(pair, 0)[0]
            law = law * stay + (law * (1 - stay))[torch.arange(8) ^ (1 << gate)]
        expected += law / 6
    state = init(vertices[5].expand(60_000, 3), target, family, torch.Generator().manual_seed(1).get_state())
    moved, _ = step(state, target, family)
    counts = (moved.position[:, None] == vertices).all(-1).double().mean(0)
    z = (counts - expected) / (expected * (1 - expected) / 60_000).sqrt()
    assert bool((z.abs() < 4.5).all()), z


# ---- against enumeration


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("name", SETTINGS)
def test_two_thousand_sweeps_agree_with_enumeration(name, diabetes):
    x, y, names = diabetes
    model = SubsetRegression(names, *SETTINGS[name])
    exact = enumerate_structures(model, x, y).inclusion()
    posterior = structure_gibbs(model, x, y, num_sweeps=2000, warmup_sweeps=100, num_chains=2, seed=1)
    sampled = posterior.inclusion()
    difference = (sampled["probability"] - exact["probability"]).to_numpy()
    assert np.abs(difference).max() < 0.05
    assert (np.abs(difference) < 4.5 * sampled["standard_error"].to_numpy()).all()
    assert posterior.kind == "exact"
    assert posterior.map.label == enumerate_structures(model, x, y).map.label
    top = posterior.table(top=3)
    assert (top["probability_se"] > 0).all()
    assert float(posterior.probability.sum()) == pytest.approx(1.0)


def test_visit_frequencies_are_those_of_the_draws(small):
    posterior = structure_gibbs(SubsetRegression("abc"), *small, num_sweeps=60, warmup_sweeps=0, num_chains=3)
    assert posterior.draws.shape == (3, 60, 3)
    for gates, probability in zip(posterior.gates, posterior.probability, strict=True):
        hit = (posterior.draws == gates).all(-1).double().mean()
        assert float(probability) == pytest.approx(float(hit))
    assert posterior.inclusion()["probability"].tolist() == pytest.approx(
        posterior.draws.double().mean((0, 1)).tolist()
    )
    assert posterior.ties() == []


@pytest.mark.slow
@pytest.mark.statistical
def test_model_averaging_over_64_predictors_beats_the_lasso():
    from sklearn.linear_model import ARDRegression, LassoCV, LinearRegression

    x, y, names = oracles.wide_diabetes()
    errors = []
    for split in range(5):
        order = np.random.RandomState(split).permutation(442)
        train, test = order[:342], order[342:]
        ols = LinearRegression(fit_intercept=False).fit(x[train], y[train])
        rate = float(((y[train] - ols.predict(x[train])) ** 2).sum() / (342 - 64) / 2)
        prior = GPrior(noise_shape=0.5, noise_rate=rate, intercept=False)
        posterior = structure_gibbs(
            SubsetRegression(names, prior),
            x[train],
            y[train],
            num_sweeps=350,
            warmup_sweeps=50,
            num_chains=1,
            seed=split,
        )
        fits = [
            predict(posterior, x[test]).mean.numpy(),
            LassoCV(cv=5, max_iter=10_000).fit(x[train], y[train]).predict(x[test]),
            ARDRegression().fit(x[train], y[train]).predict(x[test]),
            ols.predict(x[test]),
        ]
        errors.append([((fit - y[test]) ** 2).mean() for fit in fits])
    averaged, lasso, ard, ols_error = np.mean(errors, 0)
    assert averaged < min(lasso, ard)
    assert ols_error == pytest.approx(oracles.WIDE_OLS_ERROR, abs=0.005)
    assert lasso == pytest.approx(oracles.WIDE_LASSO_ERROR, abs=0.005)


# ---- caches, resume, adapter


def test_each_structure_is_evaluated_once_even_if_the_estimate_is_noisy(small):
    seen = []

    def noisy(gates):
        seen.extend(row.tobytes() for row in gates.numpy())
        return torch.randn(len(gates))

    model = SubsetRegression("abc")
    posterior = structure_gibbs(
        model, *small, num_sweeps=30, warmup_sweeps=5, num_chains=3, log_evidence=noisy, kind="lower bound"
    )
    assert len(seen) == len(set(seen)) <= 8
    assert posterior.kind == "lower bound"
    assert posterior.problem is None


@pytest.mark.parametrize("kind", ["tableau", "noisy cache"])
def test_a_run_goes_on_bit_for_bit(kind, small):
    noise = torch.Generator().manual_seed(3)

    def noisy(gates):
        return torch.randn(len(gates), generator=noise)

    def run(**options):
        function = noisy if kind == "noisy cache" else None
        return structure_gibbs(
            SubsetRegression("abc"), *small, warmup_sweeps=4, seed=5, log_evidence=function, **options
        )

    whole = run(num_sweeps=40, num_chains=2)
    noise.manual_seed(3)
    states = []
    run(num_sweeps=40, num_chains=2, callback=lambda done, state: states.append(state()) or done == 17)
    rest = run(num_sweeps=40, num_chains=2, state=states[-1])
    assert torch.equal(rest.draws, whole.draws)
    assert torch.equal(rest.log_evidence, whole.log_evidence)
    assert all(torch.equal(rest.state[name], value) for name, value in whole.state.items())
    assert all(isinstance(value, torch.Tensor) for value in whole.state.values())
    with pytest.raises(ValueError, match="resume with the model and num_chains"):
        run(num_sweeps=40, num_chains=3, state=whole.state)


def test_the_adapter_runs_under_pyro_mcmc_and_repeats_itself(diabetes):
    x, y, names = diabetes
    kernel = StructureGibbs(SubsetRegression(names), num_chains=2, seed=4)
    assert isinstance(kernel, Kernel)
    mcmc = MCMC(kernel, num_samples=30, warmup_steps=10, disable_progbar=True)
    mcmc.run(x, y)
    samples = mcmc.get_samples()
    assert samples["gamma/x->f/bmi"].shape == (30, 2)
    assert mcmc.diagnostics()["steps"] == {"chain 0": 40}
    direct = structure_gibbs(
        SubsetRegression(names), x, y, num_sweeps=30, warmup_sweeps=10, num_chains=2, seed=4
    )
    stacked = torch.stack([samples[f"gamma/x->f/{name}"] for name in names], -1)
    assert torch.equal(stacked.transpose(0, 1), direct.draws.double())
    again = MCMC(kernel, num_samples=30, warmup_steps=10, disable_progbar=True)
    again.run(x, y)
    assert all(torch.equal(again.get_samples()[name], value) for name, value in samples.items())


def test_the_adapter_starts_where_it_is_told(small):
    ops = {"flat": Constant(), "line": GLM(columns=[0])}
    family = Family(3).edge("x", "f", ops=ops, domain="simplex_vertex")
    kernel = StructureGibbs(family.model(likelihood=Gaussian(1.0)))
    kernel.initial_params = {"gamma/x->f": torch.tensor(1.0)}
    kernel.setup(0, *small)
    assert kernel.initial_params == {"gamma/x->f": torch.tensor(1.0)}
    kernel.sample({"gamma/x->f": torch.tensor(0.0)})
    assert "log density" in kernel.logging()
    with pytest.raises(ValueError, match="no data yet"):
        StructureGibbs(SubsetRegression("abc")).target  # noqa: B018


@pytest.mark.statistical
def test_batch_means_see_the_autocorrelation():
    """AR(1) with coefficient 0.9: the standard error of the mean is √19 times the independent one."""
    torch.manual_seed(0)
    chains, length = 200, 2500
    draws, value = [], torch.randn(chains)
    for _ in range(length):
        value = 0.9 * value + math.sqrt(1 - 0.81) * torch.randn(chains)
        draws.append(value)
    error = batch_means_error(torch.stack(draws, 1))
    assert float(error) == pytest.approx(math.sqrt(19 / (chains * length)), rel=0.15)
    assert bool(batch_means_error(torch.zeros(1, 2)).isnan())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_sweeps": 0}, "need num_sweeps"),
        ({"initial": torch.tensor([0.5, 0.0, 1.0])}, "not a vertex"),
        ({"log_evidence": lambda gates: torch.full((len(gates),), math.nan)}, "is NaN; return -inf"),
        ({"callback": lambda done, state: True}, "stopped after 1 of 200 warm-up sweeps"),
    ],
)
def test_errors(options, message, small):
    with pytest.raises(ValueError, match=message):
        structure_gibbs(SubsetRegression("abc"), *small, **options)


def test_models_without_a_closed_form_ask_for_a_log_evidence(small):
    model = Family(3).edge("x", "f", ops={"t": GLM(activation="tanh")}).model(likelihood=Gaussian(0.5))
    with pytest.raises(ValueError, match=r"not linear in its weights .* or pass log_evidence="):
        structure_gibbs(model, *small)


def test_the_tableau_needs_one_column_per_gate(small):
    ops = {"two": GLM(columns=[0, 1]), "one": GLM(columns=[2])}
    wide = Family(3).edge("x", "f", ops=ops, domain="cube_vertex").model(likelihood=Gaussian(0.5))
    target, problem = make_target(wide, *small)
    assert isinstance(target, CachedTarget)
    with pytest.raises(ValueError, match="must own exactly one column"):
        ConjugateTarget(problem, Bernoulli(0.5))


def test_impossible_gates_stay_closed(small):
    model = SubsetRegression("abc", GPrior(), Bernoulli([0.0, 0.5, 1.0]))
    draws = structure_gibbs(model, *small, num_sweeps=50, warmup_sweeps=1).draws.double()
    assert draws.mean((0, 1))[[0, 2]].tolist() == [0.0, 1.0]


def test_a_state_of_other_data_is_refused():
    torch.manual_seed(3)
    x = torch.randn(20, 3, dtype=torch.float64)
    y = x[:, 0] + torch.randn(20, dtype=torch.float64)
    model = SubsetRegression("abc")
    first = structure_gibbs(model, x, y, num_sweeps=5, warmup_sweeps=1)
    with pytest.raises(ValueError, match="other data or another prior"):
        structure_gibbs(model, x, y.flip(0), num_sweeps=9, warmup_sweeps=1, state=first.state)
