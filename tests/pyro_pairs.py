"""Pairs for the tests of particle objectives: many replicates in one plate give many gradients at once."""

import pyro
import pyro.distributions as dist
import torch


def replicate(*starts, size):
    """One leaf vector of length `size` for each starting number (or one matrix for a starting vector)."""
    leaves = []
    for start in starts:
        start = torch.as_tensor(start, dtype=torch.float64)
        leaves.append(start.expand(size, *start.shape).clone().requires_grad_())
    return leaves


def gaussian_toy(size):
    """z ~ N(theta, 1), x ~ N(z, .6), x = .9, q = N(m, e^s): model, guide, parameters."""
    theta, m, s = replicate(0.4, 0.1, -0.2, size=size)
    x = torch.full((size,), 0.9, dtype=torch.float64)

    def model():
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(theta, 1.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    def guide():
        with pyro.plate("data", size):
            pyro.sample("z", dist.Normal(m, s.exp()))

    return model, guide, (theta, m, s)


def discrete_toy(size):
    """Three states: log p(x|z) = t_z as a factor, prior and guide logits of table 5.2."""
    t, logits = replicate([-1.0, 0.3, -2.2], [0.5, -0.3, 0.1], size=size)
    prior = torch.tensor([0.2, -0.4, 0.9], dtype=torch.float64)

    def model():
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Categorical(logits=prior))
            index = z.unsqueeze(-1)
            pyro.factor("x", t.expand(*z.shape, 3).gather(-1, index).squeeze(-1))

    def guide():
        with pyro.plate("data", size):
            pyro.sample("z", dist.Categorical(logits=logits))

    return model, guide, (t, logits)


def hierarchical(size, *, detached=False):
    """Guide u -> z whose second location and scale depend on u and on parameters.

    `detached` freezes the distribution's parameters in log q, as much other code does: a mutant.
    """
    theta, a, b, c, d = replicate(0.3, 0.5, 0.8, -0.3, 0.4, size=size)
    x = torch.full((size,), 0.7, dtype=torch.float64)

    def model():
        with pyro.plate("data", size):
            u = pyro.sample("u", dist.Normal(theta, 1.0))
            z = pyro.sample("z", dist.Normal(u.sin(), 0.8))
            pyro.sample("x", dist.Normal(z + 0.5 * u, 0.6), obs=x)

    def guide():
        with pyro.plate("data", size):
            u = pyro.sample("u", dist.Normal(a, c.exp()))
            pyro.sample("z", dist.Normal(b * u + d, (0.3 * u * d - 0.2).exp()))

    return model, guide, (theta, a, b, c, d)


def draws(objective, pair):
    """Ascent gradients, one row per replicate, one column per coordinate; and the value per replicate."""
    model, guide, parameters = pair
    for parameter in parameters:
        parameter.grad = None
    loss = objective.loss_and_grads(model, guide)
    size = parameters[0].shape[0]
    grads = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
    ]
    return torch.cat([-grad.reshape(size, -1) for grad in grads], 1), -loss / size


def z_scores(sample, exact):
    """(mean - exact) in standard errors, per column."""
    exact = torch.as_tensor(exact, dtype=sample.dtype)
    return (sample.mean(0) - exact) / (sample.std(0) / sample.shape[0] ** 0.5)


def two_sample(first, second):
    """Difference of two means in standard errors, per column."""
    error = (first.var(0) / first.shape[0] + second.var(0) / second.shape[0]).sqrt()
    return (first.mean(0) - second.mean(0)) / error.clamp_min(1e-12)
