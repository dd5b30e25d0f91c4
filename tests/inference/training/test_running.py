"""Pyro's decaying-average baselines: in the state of a fit, not among its parameters."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceGraph_ELBO
from safetensors.torch import load, save

from evidentia.inference.fit import fit, restore
from evidentia.inference.training.running import put_running, refuse_ranks, running_values

Y = torch.tensor([0.0, 2.0, 1.0, 3.0])
NAME = "__baseline_avg_downstream_cost_k"


def model(y, bad=False):
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.4)))
        pyro.sample("obs", dist.Normal(2 * k, 1.0), obs=y)
        pyro.factor("f", torch.where(torch.as_tensor(bad), torch.tensor(math.nan), torch.tensor(0.0)))


def guide(y, bad=False):
    logit = pyro.param("logit", torch.zeros(len(y)))
    infer = {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}}
    with pyro.plate("data", len(y)):
        pyro.sample("k", dist.Bernoulli(logits=logit), infer=infer)


OPTIONS = {"objective": TraceGraph_ELBO(), "learning_rate": 0.1}


def test_the_average_is_in_the_state_and_is_no_parameter() -> None:
    result = fit((model, guide), Y, num_steps=30, seed=0, **OPTIONS)
    assert list(result.params) == ["logit"]
    average = result.state[f"running/{NAME}"]
    assert type(average) is torch.Tensor
    assert average.shape == (4,)
    assert f"param/{NAME}" not in result.state
    assert NAME not in result.state["opt/param_groups"]
    assert float(average.max()) < -0.5  # the mean cost, not the zeros it began with
    assert torch.equal(load(save({"a": average}))["a"], average)
    with result.scope():
        assert torch.equal(running_values()[NAME], average)
    assert running_values() == {}


@pytest.mark.parametrize("step", [1, 13, 29])
def test_an_interrupted_fit_continues_bitwise(step: int) -> None:
    whole = fit((model, guide), Y, num_steps=30, seed=0, **OPTIONS)
    part = fit((model, guide), Y, num_steps=step, seed=0, **OPTIONS)
    continued = fit((model, guide), Y, num_steps=30, state=part.state, **OPTIONS)
    assert torch.equal(continued.losses, whole.losses)
    assert set(continued.state) == set(whole.state)
    for key, value in whole.state.items():
        assert torch.equal(value, continued.state[key]) if isinstance(value, torch.Tensor) else True
    # A state of parameters alone starts the average anew.
    alone = {key: value for key, value in part.state.items() if key.startswith("param/")}
    restored = restore((model, guide), alone, Y)
    assert torch.equal(restored.params["logit"], part.params["logit"])
    assert f"running/{NAME}" not in restored.state


def test_a_step_that_failed_leaves_the_average_as_it_was() -> None:
    def rows(bad_step):
        steps = iter(range(100))
        return lambda: (Y, next(steps) == bad_step)

    failed = fit((model, guide), batches=rows(5), num_steps=6, seed=0, nan="skip", **OPTIONS)
    assert failed.skipped == 1
    before = fit((model, guide), batches=rows(-1), num_steps=5, seed=0, **OPTIONS)
    key = f"running/{NAME}"
    assert torch.equal(failed.state[key], before.state[key])
    later = fit((model, guide), batches=rows(5), num_steps=9, seed=0, nan="skip", **OPTIONS)
    assert bool(torch.isfinite(later.losses[6:]).all())


def test_a_line_search_moves_the_average_once_a_step() -> None:
    from torch.optim import LBFGS

    def lbfgs(parameters, lr):
        return LBFGS(parameters, lr=lr, max_iter=4)

    options = OPTIONS | {"optimizer": lbfgs}
    result = fit((model, guide), Y, num_steps=1, seed=0, **options)
    once = fit((model, guide), Y, num_steps=1, seed=0, **OPTIONS)
    assert torch.equal(result.state[f"running/{NAME}"], once.state[f"running/{NAME}"])


def test_networks_as_baselines_are_trained_and_continue() -> None:
    def pair():
        torch.manual_seed(3)
        net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Flatten(0))

        def with_network(y, bad=False):
            pyro.module("net", net)
            logit = pyro.param("logit", torch.zeros(len(y)))
            infer = {"baseline": {"nn_baseline": net, "nn_baseline_input": y[:, None]}}
            with pyro.plate("data", len(y)):
                pyro.sample("k", dist.Bernoulli(logits=logit), infer=infer)

        return model, with_network

    whole = fit(pair(), Y, num_steps=12, seed=0, **OPTIONS)
    part = fit(pair(), Y, num_steps=5, seed=0, **OPTIONS)
    continued = fit(pair(), Y, num_steps=12, state=part.state, **OPTIONS)
    assert torch.equal(continued.losses, whole.losses)
    assert {"logit", "net$$$0.weight", "net$$$0.bias"} == set(whole.params)


def test_ranks_are_refused() -> None:
    with pyro.get_param_store().scope():
        refuse_ranks(True)
        put_running({NAME: torch.ones(2)})
        refuse_ranks(False)
        with pytest.raises(ValueError, match="data_parallel"):
            refuse_ranks(True)
