"""The handlers: outcomes, exact resume through a checkpoint store, numerical failures, unknown parameters."""

import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from evidentia.models.pair import Pair
from evidentia.models.regression import SubsetRegression
from evidentia.models.structure.priors import Bernoulli
from evidentia.studies.harness.data.dataset import make_dataset
from evidentia.studies.harness.declare.registry import inferences
from evidentia.studies.harness.engine.outcome import Context, Problem, Stopped
from evidentia.studies.harness.errors import NumericalFailure, StudyError
from evidentia.studies.harness.handlers.nuts import nuts
from evidentia.studies.harness.handlers.svi import svi

MANDATORY = {
    "posterior", "sample_stats", "log_likelihood", "posterior_predictive", "prior", "prior_predictive",
    "observed_data", "constant_data",
}  # fmt: skip


class Memory:
    """A checkpoint store that keeps the newest state in memory."""

    def __init__(self) -> None:
        self.state, self.saved = None, []

    def save(self, state, step=None) -> None:
        self.state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
        self.saved.append(state["step"] if step is None else step)

    def load(self, expected=None):
        return self.state


def dataset():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(24, 3))
    return make_dataset(x, x @ np.array([1.0, -1.0, 0.0]) + 0.5 * rng.normal(size=24), ["a", "b", "c"])


def regression(x, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal((b * x).sum(-1), 0.5), obs=y)


def problem(kind: str) -> Problem:
    if kind in ("svi", "nuts"):
        guide = AutoNormal(regression)
        return Problem(dataset(), regression, guide, Pair(regression, guide))
    from evidentia.models.regression import NormalPrior

    return Problem(
        dataset(), SubsetRegression(["a", "b", "c"], NormalPrior(1.0, noise_scale=0.5), Bernoulli(0.5))
    )


PARAMS = {
    "svi": {"num_steps": 40, "learning_rate": 0.05, "num_draws": 100, "prior_draws": 20},
    "nuts": {
        "num_draws": 20, "warmup_steps": 30, "num_chains": 2, "max_tree_depth": 5, "prior_draws": 20,
    },
    "structure_gibbs": {"num_sweeps": 40, "warmup_sweeps": 5, "num_chains": 2},
    "enumerate": {"num_draws": 100},
}  # fmt: skip


def run(kind: str, **context):
    before = torch.get_default_dtype()
    outcome = inferences.get(kind)(problem(kind), PARAMS[kind], Context(seed=5, **context))
    assert torch.get_default_dtype() == before
    return outcome


@pytest.mark.parametrize("kind", PARAMS)
def test_every_handler_gives_all_the_groups_finite_rows_and_checks(kind: str) -> None:
    import arviz as az

    from evidentia.inference import diagnostics

    outcome = run(kind)
    assert set(outcome.idata.groups()) >= MANDATORY
    for row in outcome.rows:
        assert all(math.isfinite(v) or "conditional" in k for k, v in row.items() if isinstance(v, float))
        assert "elpd_loo" in row
    assert outcome.checks
    assert outcome.idata.posterior.attrs["seed"] == 5
    assert len(outcome.idata.posterior.attrs["data_sha256"]) == 64
    assert math.isfinite(diagnostics.loo(outcome.idata).elpd_loo)
    if kind == "nuts":
        assert "energy" in outcome.idata.sample_stats
        assert az.bfmi(outcome.idata).shape == (2,)
    if kind == "svi":
        assert outcome.rows[0]["kind"] == "lower bound"
        assert {"stop_reason", "k_hat", "k_hat_loo", "skipped_updates"} == {c.name for c in outcome.checks}
        assert set(outcome.weights) == {"param/AutoNormal.locs.b", "param/AutoNormal.scales.b"}
    if kind == "enumerate":
        assert sum(row["probability"] for row in outcome.rows) == pytest.approx(1.0)
        assert list(outcome.tables) == ["structures", "inclusion"]


def same(one, two) -> bool:
    if one.rows != two.rows:
        return False
    return all(one.idata[group].identical(two.idata[group]) for group in one.idata.groups())


def total(kind: str) -> int:
    """Steps of a whole run."""
    params = PARAMS[kind]
    if kind == "nuts":
        return params["num_chains"] * (params["num_draws"] + params["warmup_steps"])
    return params.get("num_steps", 0) or params["num_sweeps"] + params["warmup_sweeps"]


@pytest.mark.parametrize(
    ("kind", "stop_at"), [("svi", 13), ("nuts", 7), ("nuts", 43), ("nuts", 84), ("structure_gibbs", 23)]
)
def test_a_stopped_point_resumes_to_the_same_outcome(kind: str, stop_at: int) -> None:
    whole = run(kind)
    store, calls, events = Memory(), [], []

    def should_stop() -> bool:
        calls.append(1)
        return len(calls) == stop_at

    with pytest.raises(Stopped) as caught:
        run(kind, checkpoint=store, checkpoint_every=10, should_stop=should_stop, report=events.append)
    assert len(calls) == len(events) == stop_at
    assert caught.value.step == stop_at
    assert store.saved[-1] == stop_at
    if stop_at > 10:
        assert 10 in store.saved
    assert events[0].total
    after: list = []
    assert same(whole, run(kind, checkpoint=store, checkpoint_every=10, report=after.append))
    # It went on instead of starting over (a chain that was stopped in its warm-up does start over).
    if (kind, stop_at) != ("nuts", 7):
        assert len(events) + len(after) == total(kind)


def test_two_pairs_in_sequence_train_alike() -> None:
    one, two = run("svi"), run("svi")
    assert same(one, two)
    assert not list(pyro.get_param_store().keys())


def test_numbers_that_fail_are_a_numerical_failure_with_the_site() -> None:
    def guide(x, y=None):
        loc = pyro.param("loc", torch.zeros(3))
        steps.append(1)
        pyro.sample("b", dist.Normal(loc * (math.nan if len(steps) > 4 else 1.0), 1.0).to_event(1))

    steps: list[int] = []
    store = Memory()
    bad = Problem(dataset(), regression, guide, Pair(regression, guide))
    with pytest.raises(NumericalFailure, match="step 4") as caught:
        svi(bad, PARAMS["svi"], Context(seed=0, checkpoint=store, checkpoint_every=2))
    assert caught.value.exit_code == 3
    assert "b" in caught.value.sites
    assert store.saved == [2, 4]


def test_budget_and_tolerance_reach_the_fit() -> None:
    budget = SimpleNamespace(max_steps=7, max_seconds=None)
    outcome = svi(problem("svi"), PARAMS["svi"], Context(seed=0, budget=budget))
    assert outcome.rows[0]["steps"] == 7
    options = PARAMS["svi"] | {"tolerance": {"loss": 100.0, "drift": 100.0, "window": 5}, "decay": 0.1}
    outcome = svi(problem("svi"), options, Context(seed=0))
    assert outcome.rows[0]["stopped"] == "converged"
    assert outcome.rows[0]["steps"] == 10


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(StudyError, match=r"num_stepz.*num_steps"):
        svi(problem("svi"), {"num_stepz": 3}, Context(seed=0))
    with pytest.raises(StudyError, match="guide"):
        svi(Problem(dataset(), regression), {}, Context(seed=0))
    with pytest.raises(StudyError, match="test part"):
        svi(problem("svi"), {"held_out": True}, Context(seed=0))
    with pytest.raises(StudyError, match="warmup_steps"):
        nuts(problem("nuts"), {"warmup_steps": -1}, Context(seed=0))


def test_weights_bring_the_guide_back_without_the_data() -> None:
    from evidentia.inference.fit import restore

    outcome = run("svi")
    fresh = AutoNormal(regression)
    x, y = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    again = restore((regression, fresh), outcome.weights, x, y)
    trained = outcome.extra["fit"]
    assert all(torch.equal(again.params[name], trained.params[name]) for name in trained.params)


@pytest.mark.parametrize(("kind", "stop_at"), [("svi", 13), ("nuts", 43), ("structure_gibbs", 23)])
def test_the_state_survives_the_disk(kind: str, stop_at: int, tmp_path) -> None:
    from evidentia.studies.harness.storage.checkpoint import FolderCheckpoints

    calls = []
    with pytest.raises(Stopped):
        run(
            kind,
            checkpoint=FolderCheckpoints(tmp_path / "ckpt", settings="abc"),
            checkpoint_every=10,
            should_stop=lambda: calls.append(1) or len(calls) == stop_at,
        )
    again = FolderCheckpoints(tmp_path / "ckpt", settings="abc")
    assert same(run(kind), run(kind, checkpoint=again, checkpoint_every=10))
