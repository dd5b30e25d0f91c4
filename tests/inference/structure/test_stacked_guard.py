"""The guard of stacked training: unused where all is finite; no number depends on when it starts."""

import pytest
import torch

from evidentia.inference.structure.stacked.evidence import estimate
from evidentia.inference.structure.stacked.family_target import family_target
from evidentia.inference.structure.stacked.guide import MeanField
from evidentia.inference.structure.stacked.state import State, init
from evidentia.inference.structure.stacked.target import Target
from evidentia.inference.structure.stacked.training import Schedule, train
from evidentia.models.likelihood import Gaussian
from evidentia.models.structure.custom_ops import op
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant


def exploding(x, weight):
    """exp overflows for every x here."""
    return torch.exp(1e3 * x[:, :1] * (1 + weight.square()))


def target_of(other) -> Target:
    family = Family(1).edge("x", "f", ops={"line": GLM(), "flat": Constant(), "other": other})
    x = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    gates = family.vertices().to(x)[:2]  # the structures without the other operation
    return family_target(family.model(likelihood=Gaussian(0.5)), x, x[:, 0], gates, learn_noise=False)


def counted(target: Target) -> tuple[Target, dict[str, int]]:
    """The target, and how often each of its log-likelihoods was called."""
    calls = {"log_likelihood": 0, "guarded": 0}

    def count(name):
        original = getattr(target, name)

        def call(*args):
            calls[name] += 1
            return original(*args)

        return call

    return target._replace(**{name: count(name) for name in calls}), calls


def start(target: Target) -> State:
    ones = torch.ones(target.active.shape, dtype=torch.float64)
    return init(MeanField().initial(0 * ones, 0.1 * ones), ones, seed=0)


SCHEDULE = Schedule(num_steps=20, window=5)


def test_the_guard_is_not_called_where_all_is_finite() -> None:
    target, calls = counted(target_of(Constant()))
    state, _ = train(target, MeanField(), SCHEDULE, start(target))
    estimate(target, MeanField(), state, SCHEDULE, 4, 3, seed=0)
    assert calls["guarded"] == 0
    assert not state.guarded.any()


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_one_step_is_done_again_and_the_guard_stays(chunk_size: int) -> None:
    schedule = SCHEDULE._replace(chunk_size=chunk_size)
    target, calls = counted(target_of(op(exploding, weight=[1])))
    state, _ = train(target, MeanField(), schedule, start(target))
    chunks = 2 // chunk_size
    assert calls == {"log_likelihood": chunks, "guarded": chunks * SCHEDULE.num_steps}
    assert state.guarded.all()
    found = estimate(target, MeanField(), state, schedule, 4, 3, seed=0)
    assert calls["log_likelihood"] == chunks + 1

    careful = target.careful()
    always, _ = train(careful, MeanField(), schedule, start(careful))
    expected = estimate(careful, MeanField(), always, schedule, 4, 3, seed=0)
    for name in State._fields:
        assert name == "guarded" or torch.equal(getattr(state, name), getattr(always, name)), name
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)  # too few draws for pareto_k
    assert torch.isfinite(found.elbo).all()
    assert (state.taken == SCHEDULE.num_steps).all()


def test_where_all_is_finite_the_guard_changes_no_bit() -> None:
    target = target_of(Constant())
    plain, _ = train(target, MeanField(), SCHEDULE, start(target))
    careful, _ = train(target.careful(), MeanField(), SCHEDULE, start(target))
    assert torch.equal(plain.theta, careful.theta)
    assert torch.equal(plain.losses, careful.losses)
