"""Schedules that reach the programs as tensors, the weight of the latents, and early stopping."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from evidentia.inference.fit import FitError, fit
from evidentia.inference.objectives.presets import ELBO, IWAE, DReG
from evidentia.inference.training.annealing import Annealing
from evidentia.inference.training.schedules import cosine, exponential, linear
from evidentia.inference.training.stopping import StoppingRule

Y = torch.tensor([1.0, 2.0])


def model(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Normal(z, 1.0), obs=y)


def guide(y):
    loc = pyro.param("loc", torch.tensor(0.5))
    scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Normal(loc, scale))


def test_schedules_start_where_they_say_and_stay_at_the_end() -> None:
    for make in (linear, exponential, cosine):
        schedule = make(2.0, 0.5, 7)
        values = [schedule(step) for step in range(10)]
        assert values[0] == pytest.approx(2.0)
        assert values[7:] == [0.5] * 3
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: linear(0.0, 1.0, 0), "num_steps"),
        (lambda: cosine(math.nan, 1.0, 2), "start"),
        (lambda: exponential(1.0, 0.0, 2), "positive"),
        (lambda: Annealing({"t": 3.0}, None), r"anneal\['t'\].*function of the step"),
        (lambda: Annealing({"t": lambda step: math.inf}, None).at(2), "finite number at step 2"),
        (lambda: Annealing(None, lambda step: 0.0).at(0), "kl_weight.*positive"),
    ],
)
def test_bad_schedules_are_named(make, match) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("options", [{}, {"compile": "aten"}, {"compile": "aten", "steps_per_call": 5}])
def test_the_temperature_of_a_step_reaches_both_programs(options: dict) -> None:
    def tempered(temperature):
        w = pyro.param("w", torch.tensor(0.0))
        pyro.factor("f", -temperature - (w - w.detach()))

    def other(temperature):
        pyro.factor("g", temperature * 10.0, has_rsample=True)

    schedule = linear(1.0, 3.0, 8)
    result = fit(
        (tempered, other), num_steps=12, anneal={"temperature": schedule}, objective=ELBO(), **options
    )
    expected = [11 * schedule(step) for step in range(12)]
    assert result.losses.tolist() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(TypeError, match="temperature"):
        fit((tempered, other), num_steps=1, objective=ELBO())


@pytest.mark.parametrize("options", [{}, {"compile": "aten"}, {"compile": "aten", "steps_per_call": 5}])
@pytest.mark.parametrize("objective", [ELBO, lambda: IWAE(3), lambda: DReG(3)])
def test_the_weight_scales_the_latents_of_both_programs(options: dict, objective) -> None:
    schedule = linear(0.1, 1.0, 6)
    shared = {"num_steps": 10, "seed": 0, "objective": objective()}
    result = fit((model, guide), Y, kl_weight=schedule, **shared, **options)
    assert result.kl_weight == 1.0

    step = {"now": 0}

    class Scaled:
        """The same by hand, with Pyro's own handler on the latent site of each program."""

        def __init__(self, latent):
            self.latent = latent

        def model(self, y):
            with poutine.scale(scale=schedule(step["now"])):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(y)):
                pyro.sample("obs", dist.Normal(z, 1.0), obs=y)

        def guide(self, y):
            with poutine.scale(scale=schedule(step["now"])):
                guide(y)

    by_hand = Scaled("z")
    expected = fit((by_hand.model, by_hand.guide), Y, callbacks=[lambda s: step.update(now=s.step)], **shared)
    torch.testing.assert_close(result.losses, expected.losses, rtol=1e-6, atol=0.0)


def test_a_schedule_that_never_reaches_one_is_reported() -> None:
    with pytest.warns(UserWarning, match=r"not reached 1 after 5 steps \(it is at 0.46.*no bound"):
        result = fit((model, guide), Y, num_steps=5, kl_weight=linear(0.1, 1.0, 10))
    assert result.kl_weight == pytest.approx(0.46)
    with pytest.warns(UserWarning, match="it is at 4"):
        fit((model, guide), Y, num_steps=5, kl_weight=lambda step: 4.0)


def test_held_out_losses_are_at_weight_one_and_the_rule_waits_for_the_weight() -> None:
    schedule = linear(0.1, 1.0, 60)
    shared = {"num_steps": 200, "seed": 0, "learning_rate": 1e-6}
    result = fit(
        (model, guide), Y, kl_weight=schedule, evaluation_args=(Y,), evaluate_every=20,
        tolerance=StoppingRule(1e9, 1e9, 10), **shared,
    )  # fmt: skip
    plain = fit((model, guide), Y, evaluation_args=(Y,), evaluate_every=20, **shared)
    assert torch.allclose(
        result.evaluations[:, 1], plain.evaluations[: len(result.evaluations), 1], atol=1e-3
    )
    rule = StoppingRule(1e9, 1e9, 10)
    assert len(fit((model, guide), Y, tolerance=rule, **shared).losses) == 20
    assert len(fit((model, guide), Y, tolerance=rule, kl_weight=schedule, **shared).losses) == 80


def test_resume_with_schedules_is_bitwise() -> None:
    options = {"kl_weight": linear(0.1, 1.0, 6), "compile": "aten", "steps_per_call": 3}
    whole = fit((model, guide), Y, num_steps=9, seed=0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = fit((model, guide), Y, num_steps=4, seed=0, **options)
    resumed = fit((model, guide), Y, num_steps=9, state=part.state, **options)
    assert torch.equal(whole.losses, resumed.losses)
    assert torch.equal(whole.params["loc"], resumed.params["loc"])


def test_errors_inside_a_weighted_fit_name_the_site() -> None:
    def broken(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", z * math.nan)

    with pytest.raises(FitError, match="'f'"):
        fit((broken, guide), Y, num_steps=3, kl_weight=lambda step: 1.0, validate=False)


# -- patience


def overfitting(held_out: bool):
    """The held-out loss falls until w passes 1; the training loss goes on falling."""
    w = pyro.param("w", torch.tensor(0.0))
    if held_out:
        pyro.factor("f", -((w - 1.0) ** 2))
    else:
        pyro.factor("f", w)


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr)


def test_patience_stops_and_puts_the_best_parameters_back() -> None:
    options = {"optimizer": sgd, "learning_rate": 0.1, "evaluation_args": (True,), "evaluate_every": 2}
    result = fit((overfitting, lambda held_out: None), False, num_steps=100, patience=3, **options)
    assert result.stopped == "patience"
    assert len(result.losses) == 16  # best at step 10, then three evaluations that are worse
    assert result.best_step == 10
    assert float(result.params["w"]) == pytest.approx(1.0)
    assert float(result.state["param/w"]) == pytest.approx(1.0)
    with result.scope():
        assert float(pyro.param("w").detach()) == pytest.approx(1.0)
    whole = fit((overfitting, lambda held_out: None), False, num_steps=15, patience=3, **options)
    assert whole.stopped == "max_steps"
    assert float(whole.params["w"]) == pytest.approx(1.5)
    resumed = fit(
        (overfitting, lambda held_out: None), False, num_steps=100, patience=3, state=whole.state, **options
    )
    assert resumed.stopped == "patience"
    assert torch.equal(resumed.losses, result.losses)
    assert torch.equal(resumed.params["w"], result.params["w"])
    assert fit((overfitting, lambda held_out: None), False, num_steps=4, **options).best_step is None
