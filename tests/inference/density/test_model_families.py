"""Every kind of model that is said to trace: value and gradient against plain, looped Pyro."""

import pytest
import torch
from density_models import ENUMERATED, F64, FAMILIES
from pyro.infer.mcmc.util import initialize_model

from evidentia.inference.density.log_density import compile_density
from evidentia.inference.density.patches import unvalidated

TABLE = {**FAMILIES, **ENUMERATED}


def plain(model, args, density, position):
    """Pyro's own potential, one row after the other: log densities and gradients."""
    with unvalidated():
        _, potential, _, _ = initialize_model(model, args)
        rows = []
        for row in position:
            leaf = row.detach().requires_grad_()
            parts = leaf.split([site.size for site in density.sites])
            params = {s.name: p.reshape(s.free) for s, p in zip(density.sites, parts, strict=True)}
            value = -potential(params)
            rows.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    return torch.stack([value for value, _ in rows]), torch.stack([slope for _, slope in rows])


@pytest.mark.parametrize("name", TABLE)
def test_value_and_gradient_are_those_of_pyro(name):
    model, args = TABLE[name]
    density = compile_density(model, *args, num_chains=4, dtype=F64, executor="fx")
    assert density.level == "fx-vmap", density.notices
    position = torch.randn(4, density.dim, dtype=F64, generator=torch.Generator().manual_seed(7))
    value, gradient = plain(model, args, density, position)
    got = density.evaluate(position)
    torch.testing.assert_close(got.log_density, value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.gradient, gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(density(position), value, rtol=1e-10, atol=1e-10)
