"""The handlers `evidence` and `sample`, on models whose evidence is known; their mistakes are named."""

import math

import numpy
import pytest
import torch
from scipy.integrate import quad

from evidentia.studies.harness.data import evidence_data
from evidentia.studies.harness.data.dataset import Dataset, make_dataset
from evidentia.studies.harness.engine.outcome import Context, Problem, Stopped
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers import evidence_models as known
from evidentia.studies.harness.handlers.evidence import _judged, evidence
from evidentia.studies.harness.handlers.evidence_methods import Counted
from evidentia.studies.harness.handlers.sample import sample

FAST = {"num_chains": 32, "num_draws": 24, "warmup_steps": 20}
NOT_THE_CLOCK = ("cpu_seconds", "sampling_seconds")


def rows(columns: int = 2, count: int = 6) -> Dataset:
    """Few rows, so that the posterior is not far from the prior."""
    x = numpy.random.RandomState(1).randn(count, columns) + 0.5
    return make_dataset(x, None, [f"x{index}" for index in range(columns)])


def problem(columns: int = 2) -> Problem:
    return Problem(rows(columns), known.NormalMean())


class Store:
    """A checkpoint store in memory."""

    def __init__(self) -> None:
        self.state = None
        self.saved = 0

    def save(self, state, step=None):
        self.state = {
            key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()
        }
        self.saved += 1

    def load(self, expected=None):
        return self.state


def stop_after(reports: int):
    """(report, should_stop): asks to stop after so many reports."""
    seen = []
    return seen.append, lambda: len(seen) == reports


def without_clock(found: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in NOT_THE_CLOCK} for row in found]


def test_estimates_of_a_conjugate_model_are_right_and_count_their_cost():
    words = ("warp", "bridge", "importance", "guide", "smc", "sandwich", "stepping", "laplace")
    options = {"sandwich": {"betas": 10, "num_chains": 64}, "smc": {"num_particles": 64}}
    options["stepping"] = {"num_draws": 10, "warmup_steps": 10}
    outcome = evidence(problem(), {"methods": words, "options": options, **FAST}, Context(seed=3))
    by_word = {row["method"]: row for row in outcome.rows}
    exact = known.NormalMean().exact_log_evidence(rows().x)
    assert set(by_word) == {*words, "ais", "elbo", "iwae_10", "iwae_100", "laplace_bare"} - {"guide"}
    for word, row in by_word.items():
        assert row["reference"] == pytest.approx(exact)
        assert row["error"] == pytest.approx(row["log_evidence"] - exact)
        assert abs(row["error"]) < 0.5
        assert row["gradients"] > 0 or word == "laplace"
        assert row["cpu_seconds"] >= row["sampling_seconds"]
        assert (row["dim"], row["refused"], row["silent"]) == (2, 0, 0)
        if row["standard_error"] is not None:
            assert abs(row["z"]) < 4.5
    assert by_word["laplace_bare"]["standard_error"] is None  # an approximation has no error bar
    assert by_word["laplace_bare"]["error"] == pytest.approx(0.0, abs=1e-6)
    assert by_word["warp"]["kind"] == "consistent estimate"
    assert by_word["elbo"]["kind"] == by_word["sandwich"]["kind"] == "lower bound"
    assert by_word["sandwich"]["upper"] == pytest.approx(exact, abs=0.5)
    assert by_word["ais"]["sampling_seconds"] == 0.0  # it needs no draws
    assert {check.name for check in outcome.checks} >= {"ess_bulk", "divergences"}


def test_a_method_gives_the_same_alone_and_in_company():
    alone = evidence(problem(1), {"methods": "importance", **FAST}, Context(seed=1)).rows
    both = evidence(problem(1), {"methods": ("warp", "importance"), **FAST}, Context(seed=1)).rows
    assert without_clock(alone) == without_clock(both)[1:]


def test_repeats_differ_and_a_stopped_run_continues_where_it_was():
    params = {"methods": ("importance", "warp"), "repeats": 2, **FAST}
    whole = evidence(problem(1), params, Context(seed=2)).rows
    assert [row["repeat"] for row in whole] == [0, 0, 1, 1]
    assert whole[0]["log_evidence"] != whole[2]["log_evidence"]
    store = Store()
    report, should_stop = stop_after(3)
    with pytest.raises(Stopped):
        evidence(problem(1), params, Context(2, checkpoint=store, should_stop=should_stop, report=report))
    assert store.state is not None
    assert store.state["step"] == 3
    steps: list = []
    rest = evidence(problem(1), params, Context(2, checkpoint=store, report=steps.append))
    assert [event.step for event in steps] == [4]
    assert without_clock(rest.rows) == without_clock(whole)
    assert len(rest.checks) == 2 * len({check.name for check in rest.checks})


def test_without_an_exact_value_a_long_bridge_is_the_reference():
    class Secret:
        def __call__(self, x):
            known.NormalMean()(x)

    params = {"methods": "importance", "reference_draws": 48, **FAST}
    (row,) = evidence(Problem(rows(1), Secret()), params, Context(seed=0)).rows
    exact = known.NormalMean().exact_log_evidence(rows(1).x)
    assert 0 < row["reference_error"] < 0.05
    assert abs(row["reference"] - exact) < 4.5 * row["reference_error"]
    (bare,) = evidence(Problem(rows(1), Secret()), {"methods": "laplace", **FAST}, Context(seed=0)).rows[:1]
    assert "error" not in bare


def test_a_wrong_number_without_a_warning_is_silent():
    row = {"log_evidence": -8.0, "standard_error": 0.1, "warned": 0, "kind": "consistent estimate"}
    assert _judged(row, [-10.0, 0.0], 1.0)["silent"] == 1
    assert _judged(row, [-10.0, 0.0], 1.0)["z"] == pytest.approx(20.0)
    assert _judged(row | {"standard_error": 0.4}, [-10.0, 0.3], 1.0)["z"] == pytest.approx(4.0)
    assert _judged(row | {"warned": 1}, [-10.0, 0.0], 1.0)["silent"] == 0
    assert _judged(row, [-8.5, 0.0], 1.0)["silent"] == 0
    bound = _judged(row | {"kind": "lower bound"}, [-5.0, 0.0], 1.0)
    assert (bound["silent"], bound["loose"]) == (0, 1)
    assert _judged(row | {"log_evidence": None}, [-5.0, 0.0], 1.0)["error"] is None


def test_the_counter_counts_positions():
    class Density:
        dim = 1

        def evaluate(self, position, beta=1.0):
            return "evaluated"

        def leapfrog(self, position, *rest):
            return "moved"

        def __call__(self, position, beta=1.0):
            return "valued"

    counted = Counted(Density())
    position = torch.zeros(5, 1)
    assert (counted.evaluate(position), counted.leapfrog(position, 0), counted(position)) == (
        "evaluated", "moved", "valued",
    )  # fmt: skip
    assert (counted.gradients, counted.values, counted.dim) == (10, 5, 1)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"methods": "wrap"}, "Did you mean 'warp'"),
        ({"methods": "harmonic"}, "harmonic mean is not offered"),
        ({"methods": ["warp", "warp"]}, "named twice"),
        ({"methods": "warp", "options": {"ais": {"betas": 5}}}, "inference.options.ais: no such method"),
        ({"methods": "smc", "options": {"smc": {"num_particels": 5}}}, "num_particels"),
        ({"methods": "smc", "options": {"smc": {"num_particles": 1}}}, "num_particles >= 2"),
        ({"methods": "warp", "kernel": "hcm"}, "kernel"),
        ({"methods": "warp", "repeats": 0}, "inference.repeats"),
    ],
)
def test_mistakes_of_evidence_are_named(params, told):
    with pytest.raises(StudyError, match=told):
        evidence(problem(1), FAST | params, Context(seed=0))


FEW = {"num_chains": 16, "num_draws": 10, "warmup_steps": 12, "prior_draws": 20}


def test_sample_gives_scores_checks_and_draws():
    outcome = sample(problem(1), {**FEW, "num_draws": 40, "thinning": 2}, Context(seed=0))
    (row,) = outcome.rows
    exact = known.NormalMean().exact_log_evidence(rows(1).x)
    assert abs(row["rough_log_evidence"] - exact) < 4.5 * row["rough_standard_error"]
    assert math.isfinite(row["elpd_loo"])
    assert outcome.idata.posterior["theta"].shape == (16, 40, 1)
    theta = outcome.extra["draws"].samples["theta"]
    assert abs(float(theta.mean()) - float(rows(1).x.sum() / 7)) < 0.1
    assert {check.name for check in outcome.checks} >= {"ess_bulk", "divergences", "k_hat_loo"}


@pytest.mark.parametrize("at", [5, 17], ids=["in the warm-up", "among the draws"])
def test_sample_continues_to_the_same_bits(at):
    whole = sample(problem(1), FEW, Context(seed=4)).extra["draws"]
    store = Store()
    report, should_stop = stop_after(at)
    context = Context(4, checkpoint=store, checkpoint_every=7, should_stop=should_stop, report=report)
    with pytest.raises(Stopped):
        sample(problem(1), FEW, context)
    assert store.state is not None
    assert store.state["step"] == at
    torch.manual_seed(99)
    steps: list = []
    context = Context(4, checkpoint=store, report=steps.append)
    rest = sample(problem(1), FEW, context).extra["draws"]
    assert steps[0].step == at + 1  # what was done is not done again
    assert torch.equal(rest.unconstrained, whole.unconstrained)
    assert all(torch.equal(rest.stats[name], whole.stats[name]) for name in whole.stats)


def test_an_unadjusted_kernel_fails_its_check():
    outcome = sample(problem(1), {**FEW, "kernel": "ula"}, Context(seed=0))
    assert [check.passed for check in outcome.checks if check.name == "unadjusted"] == [False]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"kernel": "hcm"}, "Fix: kernel='hmc'"),
        ({"thinning": 0}, "inference.thinning"),
        ({"start": "somewhere"}, "start: expected one of"),
        ({"num_chain": 4}, "Did you mean 'num_chains'"),
    ],
)
def test_mistakes_of_sample_are_named(params, told):
    with pytest.raises(StudyError, match=told):
        sample(problem(1), FEW | params, Context(seed=0))


def normal(value: float, loc: float, scale: float) -> float:
    return math.exp(-0.5 * ((value - loc) / scale) ** 2) / scale / math.sqrt(2 * math.pi)


def test_exact_values_are_those_of_quadrature():
    data = evidence_data.few_numbers((2.0, 1.5))
    root, seen = math.sqrt(2), (2.0, 1.5)
    square = quad(
        lambda z: normal(z, 0, 1) * math.prod(normal(y, z * z, 0.2 * root) for y in seen),
        -6, 6, points=[-root, root],
    )  # fmt: skip
    assert known.Square().exact_log_evidence(data.x) == pytest.approx(math.log(square[0]), abs=1e-8)
    two = quad(
        lambda t: normal(t, 0, 5) * math.prod((normal(y, t, 1) + normal(y, t + 8, 1)) / 2 for y in seen),
        -30, 30, points=[-6.0, 2.0],
    )  # fmt: skip
    assert known.TwoModes().exact_log_evidence(data.x) == pytest.approx(math.log(two[0]), abs=1e-8)
    funnel = quad(
        lambda v: normal(v, 0, 3) * math.prod(normal(y, 0, math.sqrt(math.exp(v) + 1)) for y in seen),
        -30, 30, points=[0.0],
    )  # fmt: skip
    assert known.Funnel().exact_log_evidence(data.x) == pytest.approx(math.log(funnel[0]), abs=1e-8)
    hidden = math.prod(normal(y, 0.0, math.sqrt(1.01)) for y in (2.0, 1.5)) / 2
    hidden += math.prod(normal(y, 0.8, math.sqrt(1.0001)) for y in (2.0, 1.5)) / 2
    assert known.HiddenMode().exact_log_evidence(data.x) == pytest.approx(math.log(hidden), abs=1e-12)
    schools = evidence_data.eight_schools()
    found = known.EightSchools().exact_log_evidence(schools.x, schools.y)
    assert found == pytest.approx(-31.31135, abs=5e-6)
    wide = evidence_data.correlated_rows(3, rows=12)
    design = torch.cat([torch.ones(12, 1), wide.x], 1).double()
    covariance = torch.eye(12, dtype=torch.float64) + design @ design.T
    # w and s2 integrated out: a Student t with 2 a = 4 degrees of freedom and scale (b / a) (I + X X')
    student = torch.linalg.cholesky(covariance / 2)
    u = torch.linalg.solve_triangular(student, wide.y[:, None], upper=False).square().sum()
    value = math.lgamma(8.0) - math.lgamma(2.0) - 6 * math.log(4 * math.pi)
    value -= float(student.diagonal().log().sum()) + 8.0 * math.log1p(float(u) / 4)
    exact = known.NormalInverseGammaRegression().exact_log_evidence(wide.x, wide.y)
    assert exact == pytest.approx(value, abs=1e-9)
