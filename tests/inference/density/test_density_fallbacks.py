"""Models that cannot be batched step down, say so, and stay right; wrong recordings are noticed."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from evidentia.inference.density import levels
from evidentia.inference.density.log_density import compile_density
from evidentia.inference.density.program import Program

F64 = torch.float64


def checked(model, args, level, match, chains=4):
    """Compile with one warning and compare with one chain after the other, by hand."""
    with pytest.warns(UserWarning, match=match) as caught:
        density = compile_density(model, *args, num_chains=chains, dtype=F64)
    assert len(caught) == 1
    assert density.level == level, density.notices
    position = torch.randn(6, density.dim, dtype=F64, generator=torch.Generator().manual_seed(4))
    found = density.evaluate(position)
    for row in range(6):
        leaf = position[row].clone().requires_grad_()
        values = density.unpack(leaf)
        with pyro.validation_enabled(False):
            trace = pyro.poutine.trace(pyro.poutine.condition(model, values)).get_trace(*args)
            value = trace.log_prob_sum() + sum(
                site.transform.log_abs_det_jacobian(part, site.transform(part)).sum()
                for site, part in zip(density.sites, leaf.split([s.size for s in density.sites]), strict=True)
            )
        (slope,) = torch.autograd.grad(value, leaf)
        torch.testing.assert_close(found.log_density[row], value.detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.gradient[row], slope, rtol=1e-10, atol=1e-10)
    leap = density.leapfrog(position, position, found.gradient, 0.01, torch.ones(density.dim, dtype=F64))
    assert leap.log_density.shape == (6,)
    return density


def zero():
    return torch.tensor(0.0, dtype=F64)


def test_a_branch_on_a_latent():
    def model(y):
        a = pyro.sample("a", dist.Normal(zero(), 1.0))
        mean = a if a > 0 else 3 * a**2
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    checked(model, (zero() + 0.4,), "loop", "after site 'a'")


def test_a_number_read_out_of_a_latent():
    def model(y):
        a = pyro.sample("a", dist.Normal(zero(), 1.0))
        pyro.sample("y", dist.Normal(a, 1.0 + float(a.detach()) ** 2), obs=y)

    checked(model, (zero() + 0.4,), "loop", "after site 'a'")


def test_a_round_trip_through_numpy():
    def model(y):
        a = pyro.sample("a", dist.Normal(zero(), 1.0))
        scale = 1.0 + abs(torch.as_tensor(a.detach().numpy()))
        pyro.sample("y", dist.Normal(a, scale), obs=y)

    # Under an outer plate all chains are one array, so that level works.
    checked(model, (zero() + 0.4,), "plate", "after site 'a'")


def test_a_latent_written_into_a_fresh_tensor():
    def model(y):
        a = pyro.sample("a", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        mean = torch.zeros(3, dtype=F64)
        mean[0], mean[1] = a[0], a[1] ** 2
        pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)

    checked(model, (torch.ones(3, dtype=F64),), "loop", "after site 'a'")


def test_ordered_logistic():
    def model(y):
        a = pyro.sample("a", dist.Normal(zero(), 1.0))
        cuts = torch.tensor([-1.0, 0.5], dtype=F64)
        with pyro.plate("data", 3):
            pyro.sample("y", dist.OrderedLogistic(a * torch.ones(3, dtype=F64), cuts), obs=y)

    # It writes in place, into a tensor without chains.
    checked(model, (torch.tensor([0.0, 1.0, 2.0], dtype=F64),), "plate", "site 'y'|site 'data'")


def test_a_discrete_hidden_markov_model():
    def model(y):
        a = pyro.sample("a", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        start = torch.zeros(2, dtype=F64)
        moves = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64)
        pyro.sample("y", dist.DiscreteHMM(start, moves, dist.Normal(a, 1.0)), obs=y)

    with pyro.validation_enabled(False):
        density = compile_density(model, torch.tensor([0.3, -0.2, 0.1], dtype=F64), num_chains=4)
    assert density.level == "fx-vmap"


def test_a_sequential_plate_is_recorded():
    def model(y):
        a = pyro.sample("a", dist.Normal(zero(), 1.0))
        for row in pyro.plate("data", 3):
            pyro.sample(f"y_{row}", dist.Normal(a, 1.0), obs=y[row])

    density = compile_density(model, torch.ones(3, dtype=F64), num_chains=4)
    found = density.evaluate(torch.zeros(4, 1, dtype=F64))
    assert found.gradient[:, 0].tolist() == [3.0] * 4


def test_a_shape_that_depends_on_data_makes_them_constants():
    def model(x, y):
        a = pyro.sample("a", dist.Normal(zero(), 1.0))
        with pyro.plate("data", int((x > 0).sum())):
            pyro.sample("y", dist.Normal(a, 1.0), obs=y[x > 0])

    x, y = torch.tensor([1.0, -1.0, 2.0], dtype=F64), torch.tensor([1.0, 5.0, 2.0], dtype=F64)
    density = compile_density(model, x, y, num_chains=4)
    assert density.level == "fx-vmap"
    assert "number is read" in density.notices[0]
    position = torch.zeros(4, 1, dtype=F64)
    assert density.evaluate(position).gradient[0].item() == 3.0
    assert density.with_data(-x, y).evaluate(position).gradient[0].item() == 5.0
    assert density.evaluate(position).gradient[0].item() == 3.0


def test_a_baked_in_value_is_noticed(monkeypatch):
    """Mutant: the recording forgets its second input, as baked-in control flow would make it."""

    def forgetful(self, fixed, chains):
        return original(self, fixed, [chains[0].roll(1, 0), *chains[1:]])

    original = Program.evaluate
    monkeypatch.setattr(Program, "evaluate", forgetful)

    def model(y):
        a = pyro.sample("a", dist.Normal(zero(), 1.0))
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    checked(model, (zero(),), "vmap", "fx-vmap.*site 'y'.*in place of")


def test_a_branch_taken_once_is_noticed():
    """A model that computes otherwise while it is recorded steps down to plain runs."""
    calls = []

    def model(y):
        a = pyro.sample("a", dist.Normal(zero(), 1.0))
        calls.append(type(a))
        mapped = torch._C._functorch.maybe_current_level() is not None
        pyro.sample("y", dist.Normal(a * (2.0 if mapped else 1.0), 1.0), obs=y)

    checked(model, (zero() + 0.4,), "plate", "vmap.*in place of")


def test_a_wrong_jacobian_sign_is_noticed(monkeypatch):
    """Mutant: the mapped density with the sign of its Jacobian turned."""
    original = levels.mapped

    def mutant(joint, rebuild, dims):
        many = original(joint, rebuild, dims)

        def wrong(position, *rest):
            value, gradient, likelihood = many(position, *rest)
            return value - 2 * position[:, 0], gradient - 2.0, likelihood

        return wrong

    monkeypatch.setattr(levels, "mapped", mutant)

    def model(y):
        a = pyro.sample("a", dist.LogNormal(zero(), 1.0))
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    checked(model, (zero() + 0.4,), "plate", "log density: .* in place of")
