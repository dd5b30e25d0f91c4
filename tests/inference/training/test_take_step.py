"""The short way of an optimizer's step: the same bits as the long way, and the long way where it is due."""

import copy

import pytest
import torch

from evidentia.inference.training.optimiser import adam, take_step

_SHAPES = ((7, 3), (5,), (), (1,))


def _setting(build):
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(shape, generator=generator).requires_grad_() for shape in _SHAPES]
    optimizer = build(parameters)
    return parameters, optimizer


def _gradients(step):
    generator = torch.Generator().manual_seed(1 + step)
    return [torch.randn(shape, generator=generator) for shape in _SHAPES]


def _run(build, move, steps=5, missing=None):
    parameters, optimizer = _setting(build)
    for step in range(steps):
        for place, (parameter, gradient) in enumerate(zip(parameters, _gradients(step), strict=True)):
            parameter.grad = None if place == missing and step % 2 else gradient
        move(optimizer)
    return parameters, optimizer.state_dict()


@pytest.mark.parametrize(
    "build",
    [
        lambda p: adam(p, 0.01),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.01, maximize=True, fused=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
        lambda p: torch.optim.Adam([{"params": p[:2]}, {"params": p[2:], "lr": 0.1}], lr=0.01, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, fused=True),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), fused=True),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    ],
)
@pytest.mark.parametrize("missing", [None, 1])
def test_bits_are_those_of_the_step_itself(build, missing):
    short, short_state = _run(build, take_step, missing=missing)
    long, long_state = _run(build, lambda optimizer: optimizer.step(), missing=missing)
    assert all(torch.equal(one, two) for one, two in zip(short, long, strict=True))
    assert short_state["param_groups"] == long_state["param_groups"]
    for key, entries in long_state["state"].items():
        assert all(torch.equal(v, short_state["state"][key][n]) for n, v in entries.items() if v is not None)


def test_the_kernel_is_called_without_the_step(monkeypatch):
    parameters, optimizer = _setting(lambda p: adam(p, 0.01))
    for parameter, gradient in zip(parameters, _gradients(0), strict=True):
        parameter.grad = gradient
    take_step(optimizer)  # creates the state
    before = copy.deepcopy(optimizer.state_dict())
    monkeypatch.setattr(torch.optim.Adam, "step", None)
    take_step(optimizer)
    assert float(before["state"][0]["step"]) + 1 == float(optimizer.state_dict()["state"][0]["step"])


def test_hooks_and_a_step_of_ones_own_are_respected():
    parameters, optimizer = _setting(lambda p: adam(p, 0.01))
    for parameter, gradient in zip(parameters, _gradients(0), strict=True):
        parameter.grad = gradient
    take_step(optimizer)
    seen = []
    handle = optimizer.register_step_pre_hook(lambda *_: seen.append("hook"))
    take_step(optimizer)
    handle.remove()
    own = optimizer.step
    optimizer.step = lambda: seen.append("own") or own()
    take_step(optimizer)
    assert seen == ["hook", "own"]
