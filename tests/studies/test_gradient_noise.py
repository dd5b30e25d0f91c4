"""The noise of discrete gradients on a small model: exact gradient, bias and its absence, refusals."""

import pytest
import torch

from evidentia.models.latent.discrete_vae import bit_states, discrete_vae_pair
from evidentia.models.latent.vae import vae_pair
from evidentia.studies.harness.data.dataset import make_dataset
from evidentia.studies.harness.engine.outcome import Context, Problem
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers.gradient_noise import exact_gradient, gradient_noise
from evidentia.studies.harness.handlers.latent import latent
from evidentia.studies.harness.handlers.pictures import traversals
from evidentia.studies.harness.handlers.training import TrainingParams, objective_of

SHORT = {"objective": "discrete", "estimator": "disarm", "num_steps": 2, "compile": None, "batch_size": 16}


def problem(build=discrete_vae_pair):
    pixels = torch.bernoulli(torch.full((60, 6), 0.4), generator=torch.Generator().manual_seed(0)).numpy()
    names = [f"pixel_{index}" for index in range(6)]
    data = make_dataset(pixels[:40], None, names, test_x=pixels[40:52], validation_x=pixels[52:])
    torch.manual_seed(0)
    pair = build(3, 6, (8,))
    return Problem(data, pair.model, pair.guide, pair)


def test_the_exact_gradient_is_that_of_the_enumerated_bound():
    torch.set_default_dtype(torch.float64)
    model, guide = discrete_vae_pair(3, 6, (8,))
    torch.nn.init.normal_(model.prior_logits)
    x = model(size=4).detach()
    theta = guide.logits(x).detach().requires_grad_()
    log_q = bit_states(3) @ theta.T - torch.nn.functional.softplus(theta).sum(-1)
    bound = (log_q.exp() * (model.log_joint(x) - log_q)).sum()
    torch.testing.assert_close(exact_gradient(model, theta, x), torch.autograd.grad(bound, theta)[0])


@pytest.mark.statistical
def test_score_estimators_are_unbiased_and_straight_through_is_not():
    names = ("rloo", "disarm", "local", "st")
    params = SHORT | {"num_steps": 1, "estimators": names, "images": 3, "copies": 400, "repeats": 10}
    outcome = gradient_noise(problem(), params, Context(seed=0))
    score = {row["estimator"]: row for row in outcome.rows}
    assert all(score[name]["largest_z"] < 4.5 for name in names[:3])
    assert score["st"]["largest_z"] > 10
    assert score["local"]["variance"] < score["disarm"]["variance"] < score["rloo"]["variance"]
    assert {name: score[name]["evaluations"] for name in names} == {
        "rloo": 2,
        "disarm": 2,
        "local": 8,
        "st": 2,
    }
    entries = outcome.tables["entries"]
    assert len(entries) == 4 * 3 * 3
    mean = entries[entries["estimator"] == "st"]
    square = ((mean["mean"] - mean["exact"]) ** 2 - mean["variance"] / 4000).sum() / 3
    assert score["st"]["bias_squared"] == pytest.approx(square)


def test_baselines_are_tuned_where_they_are_measured():
    params = SHORT | {"estimators": ("reinforce", "nvil"), "images": 3, "copies": 50, "repeats": 3}
    rows = gradient_noise(problem(), params | {"tuning_steps": 150}, Context(seed=0)).rows
    assert rows[1]["variance"] < 0.5 * rows[0]["variance"]


@pytest.mark.slow
def test_the_latent_handler_trains_bits():
    params = SHORT | {"evidence_particles": 20, "saved_rows": 4, "saved_draws": 3, "watch_every": 1}
    once = latent(problem(), params, Context(seed=0))
    twice = latent(problem(), params | {"watch_repeats": 4}, Context(seed=0))
    assert list(once.tables["watched"]["step"]) == [1.0, 2.0]
    # Four copies of eight rows: the loss of the validation part is that of 32 rows.
    ratio = twice.tables["watched"]["loss"] / once.tables["watched"]["loss"]
    assert ((ratio - 1).abs() < 0.1).all()
    assert set(once.tables["traversals"]["step"]) == {0.0, 1.0}
    assert len(traversals(once.extra["fit"], [0, 1])) == 4


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(StudyError, match="objective 'discrete' needs one"):
        objective_of(TrainingParams(objective="discrete"))
    with pytest.raises(StudyError, match="others take none"):
        objective_of(TrainingParams(estimator="st"))
    with pytest.raises(StudyError, match="rloo' needs at least 2"):
        objective_of(TrainingParams(objective="discrete", estimator="rloo"))
    with pytest.raises(StudyError, match="'discrete_vae'"):
        gradient_noise(problem(vae_pair), {}, Context(seed=0))
