"""A state of exactly the step that ended a fit: resumed, it is the same end and no further step."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from evidentia.inference.fit import fit
from evidentia.inference.training.stopping import StoppingRule

_STILL = StoppingRule(0.5, 0.5, 7)


class _Kept:
    def __init__(self):
        self.states = {}

    def on_checkpoint(self, state):
        self.states[state["step"]] = state


def _model(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)


def _fit(**options):
    y = torch.tensor([1.0, 2.0, 3.0])
    return fit((_model, AutoNormal(_model)), y, num_steps=60, learning_rate=0.05, **options)


RULES = {
    "converged": {"tolerance": _STILL},
    "converged in a block": {"tolerance": _STILL, "compile": "aten", "steps_per_call": 5},
    "converged held out": {
        "tolerance": _STILL, "evaluation_args": (torch.tensor([1.0, 2.0]),), "evaluate_every": 7
    },
    # Far from the training data: every step makes the held-out loss worse.
    "patience": {"evaluation_args": (torch.tensor([-9.0, -9.0]),), "evaluate_every": 4, "patience": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_checkpoint_of_the_last_step_ends_where_the_fit_ended(name):
    kept = _Kept()
    options = RULES[name] | {"checkpoint_every": RULES[name].get("steps_per_call", 1)}
    whole = _fit(seed=0, callbacks=[kept], **options)
    assert whole.stopped == name.split()[0]
    assert 0 < len(whole.losses) < 60
    assert len(whole.losses) in kept.states
    for step in (len(whole.losses) - 1, len(whole.losses)):
        if step not in kept.states:
            assert "block" in name
            continue
        resumed = _fit(state=kept.states[step], **options)
        assert resumed.stopped == whole.stopped
        assert torch.equal(resumed.losses, whole.losses)
        assert resumed.best_step == whole.best_step
        for key, value in whole.state.items():
            other = resumed.state[key]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    again = _fit(state=whole.state, **options)
    assert (again.stopped, len(again.losses)) == (whole.stopped, len(whole.losses))


def test_another_rule_goes_on_from_there():
    whole = _fit(seed=0, tolerance=_STILL)
    assert whole.stopped == "converged"
    for tolerance in (None, _STILL._replace(drift=1e-9)):
        longer = _fit(state=whole.state, tolerance=tolerance)
        assert (longer.stopped, len(longer.losses)) == ("max_steps", 60)
