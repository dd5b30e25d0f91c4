"""The handlers of autoencoders, on models whose evidence, gaps and signal are known."""

import math

import pytest
import torch

from evidentia.models.latent.encoder import Encoder
from evidentia.models.latent.vae import VAE
from evidentia.models.latent.vae_ard import vae_ard_pair
from evidentia.models.pair import Pair
from evidentia.models.tractable.gaussian_copies import gaussian_copies_pair
from evidentia.models.tractable.linear_gaussian import mean_field_gap
from evidentia.models.tractable.ppca import ProbabilisticPCA
from evidentia.studies.harness.data.dataset import make_dataset
from evidentia.studies.harness.engine.outcome import Context, Problem, Stopped
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers.latent import latent
from evidentia.studies.harness.handlers.pictures import STEPS, images
from evidentia.studies.harness.handlers.signal import signal

SHORT = {
    "num_steps": 30, "batch_size": 16, "evidence_particles": 40, "saved_rows": 4, "saved_draws": 5,
    "watch_every": 10,
}  # fmt: skip


def linear_problem(full_covariance: bool = False) -> Problem:
    """Rows of a linear-Gaussian model that is held fixed, with a linear encoder."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.tensor([[1.0, 0.6], [0.8, -0.2], [0.3, 0.9]], dtype=torch.float64)
    z = torch.randn(160, 2, generator=generator, dtype=torch.float64)
    x = z @ factor.T + 0.5 * torch.randn(160, 3, generator=generator, dtype=torch.float64)
    model = ProbabilisticPCA(factor.new_zeros(3), factor, 0.25).eval().requires_grad_(False)
    torch.manual_seed(0)
    guide = Encoder(3, 2, (), full_covariance=full_covariance).double()
    data = make_dataset(x[:100].numpy(), None, ["a", "b", "c"], test_x=x[100:].numpy())
    return Problem(data, model, guide, Pair(model, guide))


def images_problem(relevance: bool = False) -> Problem:
    """Black-and-white images of 4 by 4 pixels, all noise."""
    pixels = torch.bernoulli(torch.full((60, 16), 0.4), generator=torch.Generator().manual_seed(0)).numpy()
    names = [f"pixel_{index}" for index in range(16)]
    data = make_dataset(pixels[:40], None, names, test_x=pixels[40:52], validation_x=pixels[52:])
    torch.manual_seed(0)
    pair = vae_ard_pair(3, 16, (8,)) if relevance else Pair(VAE(3, 16, (8,)), Encoder(16, 3, (8,)))
    return Problem(data, pair.model, pair.guide, pair)


@pytest.mark.slow
@pytest.mark.parametrize("full_covariance", [False, True])
def test_evidence_and_gaps_of_a_linear_model_are_the_exact_ones(full_covariance):
    problem = linear_problem(full_covariance)
    params = {
        "objective": "elbo", "gradient": "total", "num_steps": 1500, "batch_size": None, "warm_down": 0.5,
        "learning_rate": 0.02, "gap_steps": 200, "gap_rows": 30, "saved_rows": 4, "saved_draws": 5,
    }  # fmt: skip
    row = latent(problem, params, Context(seed=0)).rows[0]
    model = problem.model
    exact = float(model.log_evidence(problem.data.test_x).sum())
    assert row["log_evidence"] < exact + 4.5 * row["standard_error"]
    assert row["log_evidence"] == pytest.approx(exact, abs=0.5)
    assert row["nats"] == pytest.approx(-row["log_evidence"] / 60)
    gap = 0.0 if full_covariance else float(mean_field_gap(model.factor, model.variance))
    error = max(row["approximation_gap_se"], 1e-6)
    assert abs(row["approximation_gap"] - gap) < 4.5 * error + 2e-3
    assert row["total_gap"] == pytest.approx(row["approximation_gap"] + row["amortisation_gap"])
    assert row["test_elbo"] == pytest.approx(exact / 60 - row["total_gap"], abs=0.1)


@pytest.mark.parametrize("relevance", [False, True])
def test_an_autoencoder_leaves_tables_draws_and_weights(relevance):
    outcome = latent(images_problem(relevance), SHORT, Context(seed=0))
    row = outcome.rows[0]
    assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
    assert row["kind"] == "lower bound"
    assert list(outcome.tables["watched"]["step"]) == [10.0, 20.0, 30.0]
    assert len(outcome.tables["losses"]) == 30
    assert images(outcome.tables["samples"]).shape == (40, 4, 4)
    assert images(outcome.tables["traversals"]).shape == (3 * len(STEPS), 4, 4)
    assert list(outcome.tables["units"]["activity"]) == sorted(outcome.tables["units"]["activity"])[::-1]
    assert {"posterior", "prior", "log_likelihood", "posterior_predictive"} <= set(outcome.idata.groups())
    assert outcome.weights


def test_a_stopped_training_resumes_to_the_same_row():
    class Memory:
        state = None

        def save(self, state, step=None):
            self.state = dict(state)

        def load(self, expected=None):
            return self.state

    whole = latent(images_problem(), SHORT, Context(seed=0))
    store, calls = Memory(), []
    with pytest.raises(Stopped):
        latent(
            images_problem(),
            SHORT,
            Context(seed=0, checkpoint=store, should_stop=lambda: len(calls) == 12 or calls.append(1)),
        )
    assert store.state["step"] == 13
    again = latent(images_problem(), SHORT, Context(seed=0, checkpoint=store))
    assert again.rows == whole.rows
    assert again.tables["samples"].equals(whole.tables["samples"])


def test_an_objective_of_pyro_runs_eagerly():
    row = latent(images_problem(), SHORT | {"objective": "mean_field"}, Context(seed=0)).rows[0]
    assert math.isfinite(row["train_bound"])


def test_the_signal_of_a_trained_pair_is_a_table():
    table = latent(images_problem(), SHORT | {"signal_particles": (1, 4), "signal_draws": 5}, Context(seed=0))
    signals = table.tables["signal"]
    assert len(signals) == 2 * 2 * 2
    assert (signals["snr"] > 0).all()


def test_the_signal_scales_as_theory_says():
    pair = gaussian_copies_pair(600)
    row = 2**0.5 * torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = make_dataset(row.expand(600, 5).numpy(), None, list("abcde"))
    outcome = signal(
        Problem(data, pair.model, pair.guide, pair), {"particles": (4, 16, 64, 256)}, Context(seed=0)
    )
    slopes = {(row["program"], row["gradient"]): row["slope"] for row in outcome.rows}
    assert slopes["model", "total"] == pytest.approx(0.5, abs=0.08)
    assert slopes["guide", "total"] == pytest.approx(-0.5, abs=0.08)
    assert slopes["guide", "dreg"] == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_size": 500}, "inference.batch_size: 500 rows asked for, the data set has 40"),
        ({"gradient": "dreg"}, "inference.gradient: 'dreg' does not go with objective 'elbo'"),
        ({"objective": "enum", "gradient": "stl"}, "objective 'enum' has one gradient of its own"),
        ({"objective": "miwae", "outer": 2, "num_particles": 3}, "inference.outer: expected a divisor"),
        ({"num_stepz": 3}, "num_stepz"),
    ],
)
def test_settings_that_do_not_fit_are_refused(params, message):
    with pytest.raises(StudyError, match=message):
        latent(images_problem(), SHORT | params, Context(seed=0))


def test_a_data_set_without_a_test_part_is_refused():
    problem = images_problem()
    with pytest.raises(StudyError, match="has no test part"):
        latent(problem._replace(data=problem.data._replace(test_x=None)), SHORT, Context(seed=0))
