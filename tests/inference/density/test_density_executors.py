"""Executors agree, patches are put back, and nothing heavy is imported on the way to a density."""

import subprocess
import sys
import textwrap

import posteriors
import pyro.ops.einsum.torch_log as torch_log
import pyro.ops.special as special
import pytest
import torch
from torch.distributions import Distribution, bernoulli, dirichlet
from torch.nn.functional import binary_cross_entropy_with_logits as torch_cross_entropy

from evidentia.inference.density import executor as executors
from evidentia.inference.density.log_density import compile_density
from evidentia.inference.density.patches import (
    lean_cross_entropy,
    plain_dirichlet,
    safe_cholesky,
    safe_log,
    traceable,
)


def originals():
    names = [(special, "safe_log"), (torch_log, "safe_log"), (Distribution, "_validate_sample")]
    names += [(dirichlet, "_Dirichlet"), (bernoulli, "binary_cross_entropy_with_logits")]
    return [getattr(place, name) for place, name in names]


@pytest.mark.parametrize("fails", [False, True])
def test_patches_are_put_back(fails):
    before = originals()
    flag = Distribution._validate_args
    try:
        with traceable(), plain_dirichlet():
            assert all(one is not two for one, two in zip(originals(), before, strict=True))
            if fails:
                raise RuntimeError("planted")
    except RuntimeError:
        assert fails
    assert all(one is two for one, two in zip(originals(), before, strict=True))
    assert Distribution._validate_args is flag


def test_patches_are_put_back_when_a_model_fails():
    def model():
        raise RuntimeError("planted")

    before = originals()
    with pytest.raises(RuntimeError, match="planted"):
        compile_density(model, num_chains=2)
    assert all(one is two for one, two in zip(originals(), before, strict=True))


def test_replacements_are_those_of_pyro():
    x = torch.tensor([0.0, 1e-30, 0.3], dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    for one, two in ((safe_log(x), special.safe_log(y)),):
        assert torch.equal(one, two)
        assert torch.equal(torch.autograd.grad(one.sum(), x)[0], torch.autograd.grad(two.sum(), y)[0])
    logits = torch.linspace(-800, 800, 41, dtype=torch.float64).requires_grad_()
    for target in (0.0, 0.3, 1.0):
        labels = torch.full_like(logits, target)
        one, two = (f(logits, labels, reduction="none") for f in (lean_cross_entropy, torch_cross_entropy))
        torch.testing.assert_close(one, two, rtol=1e-15, atol=1e-15)
        slopes = [torch.autograd.grad(each.sum(), logits)[0] for each in (one, two)]
        torch.testing.assert_close(*slopes, rtol=1e-14, atol=1e-15)
    assert lean_cross_entropy(logits, labels) == torch_cross_entropy(logits, labels)
    from pyro.ops.tensor_utils import safe_cholesky as original

    matrix = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(safe_cholesky(matrix), original(matrix), rtol=1e-15, atol=0)


def test_generated_code_and_torchscript_are_equal():
    model, args = posteriors.eight_schools()
    position = torch.randn(3, 10, dtype=torch.float64)
    found = [compile_density(model, *args, num_chains=3, executor=kind) for kind in ("fx", "jit")]
    assert [density.executor for density in found] == ["fx", "jit"]
    for _ in range(4):  # TorchScript optimises on its second call
        one, two = (density.evaluate(position, 0.4) for density in found)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_without_torchscript_generated_code_runs(monkeypatch):
    def gone(*args, **kwargs):
        raise RuntimeError("it is gone")

    monkeypatch.setattr(torch.jit, "trace", gone)
    model, args = posteriors.eight_schools()
    density = compile_density(model, *args, num_chains=3)
    density.evaluate(torch.zeros(3, 10, dtype=torch.float64))
    assert density.executor == "fx"
    assert "it is gone" in density.notices[0]
    monkeypatch.setattr(torch.jit, "trace", None)
    assert executors.check_executor("auto") == "fx"


@pytest.mark.slow
def test_inductor():
    model, args = posteriors.eight_schools(torch.float32)
    position = torch.randn(16, 10)
    one = compile_density(model, *args, num_chains=16, executor="inductor")
    two = compile_density(model, *args, num_chains=16, executor="fx")
    assert one.executor == "inductor", one.notices
    torch.testing.assert_close(one.evaluate(position), two.evaluate(position), rtol=2e-6, atol=2e-6)


@pytest.mark.slow
def test_a_cold_start_loads_no_compiler():
    """The recorder, the sites and TorchScript get by without dynamo and sympy, which cost seconds."""
    script = """
        import sys, torch, posteriors
        from evidentia.inference.density.log_density import compile_density
        already = {name for name in ("sympy", "torch._dynamo") if name in sys.modules}
        model, args = posteriors.eight_schools()
        density = compile_density(model, *args, num_chains=4)
        position = torch.zeros(4, 10, dtype=torch.float64)
        gradient = density.evaluate(position).gradient
        density.leapfrog(position, position, gradient, 0.1, torch.ones(10, dtype=torch.float64))
        density.prior_draws(3)
        print({name for name in ("sympy", "torch._dynamo") if name in sys.modules} - already)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=posteriors.__file__.rsplit("/", 1)[0],
    )
    assert done.stdout.strip() == "set()"
