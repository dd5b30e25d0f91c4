"""The leapfrog map: reversible, volume preserving, of second order; the same by every route."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from evidentia.inference.density.evaluation import Evaluation
from evidentia.inference.mcmc.integrator import Phase, integrate
from evidentia.inference.mcmc.metric import (
    draw_momentum,
    identity_metric,
    kinetic,
    metric_of,
    velocity,
    whiten,
)
from evidentia.inference.mcmc.points import choose, metropolis

COVARIANCE = torch.tensor([[1.3, 0.5, 0.1], [0.5, 0.7, -0.2], [0.1, -0.2, 0.4]], dtype=torch.float64)


def quartic(x, beta=1.0):
    """A smooth density that is not Gaussian and not symmetric."""
    weight = torch.tensor([0.3, 1.0, 2.0], dtype=x.dtype)
    value = (x - 0.1 * x**4 - 0.5 * weight * x**2).sum(-1) - 0.2 * x[:, 0] * x[:, 1]
    gradient = 1 - 0.4 * x**3 - weight * x
    cross = torch.stack([-0.2 * x[:, 1], -0.2 * x[:, 0], 0 * x[:, 0]], -1)
    return Evaluation(value, gradient + cross, value)


def phase_at(position, momentum):
    value = quartic(position)
    return Phase(position, momentum, value.gradient, value.log_density, value.log_likelihood)


def energy(phase, metric):
    return kinetic(metric, phase.momentum) - phase.log_density


class Leap(NamedTuple):
    position: Tensor
    momentum: Tensor
    gradient: Tensor
    log_density: Tensor
    log_likelihood: Tensor


class Fused:
    """A density with the fused step of a compiled one, written down once more."""

    def leapfrog(self, position, momentum, gradient, step_size, covariance, beta=1.0):
        momentum = momentum + 0.5 * step_size * gradient
        moved = momentum @ covariance if covariance.ndim == 2 else momentum * covariance
        position = position + step_size * moved
        value = quartic(position)
        momentum = momentum + 0.5 * step_size * value.gradient
        return Leap(position, momentum, value.gradient, value.log_density, value.log_likelihood)


METRICS = {"dense": metric_of(COVARIANCE), "diagonal": metric_of(COVARIANCE.diagonal().clone())}


@pytest.fixture(params=METRICS)
def metric(request):
    return METRICS[request.param]


def test_forward_and_back(metric):
    position = torch.randn(20, 3, dtype=torch.float64)
    start = phase_at(position, draw_momentum(metric, position))
    end = integrate(start, quartic, 0.2, 25, metric)
    assert (end.position - position).abs().max() > 0.5
    back = integrate(end._replace(momentum=-end.momentum), quartic, 0.2, 25, metric)
    assert (back.position - position).abs().max() < 1e-10
    assert (back.momentum + start.momentum).abs().max() < 1e-10


def test_energy_error_is_of_second_order(metric):
    position = torch.randn(200, 3, dtype=torch.float64)
    start = phase_at(position, draw_momentum(metric, position))
    errors = []
    counts = (20, 40, 80, 160)
    for count in counts:
        end = integrate(start, quartic, 1.0 / count, count, metric)
        errors.append((energy(end, metric) - energy(start, metric)).abs().mean().log().item())
    slopes = [(errors[i] - errors[i + 1]) / math.log(2) for i in range(len(counts) - 1)]
    assert all(abs(slope - 2) < 0.1 for slope in slopes), slopes


def test_volume_is_preserved(metric):
    def flow(z):
        end = integrate(phase_at(z[None, :3], z[None, 3:]), quartic, 0.3, 5, metric)
        return torch.cat([end.position, end.momentum], -1)[0]

    start = torch.randn(6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(flow, start)
    assert abs(torch.linalg.det(jacobian).item() - 1) < 1e-10
    assert (jacobian - torch.eye(6)).abs().max() > 0.3


@pytest.mark.parametrize("per_chain", [False, True])
def test_a_fused_step_and_a_plain_density_agree(metric, per_chain):
    position = torch.randn(7, 3, dtype=torch.float64)
    start = phase_at(position, draw_momentum(metric, position))
    step = torch.linspace(0.1, 0.3, 7, dtype=torch.float64) if per_chain else 0.2
    plain, fused = (integrate(start, density, step, 4, metric) for density in (quartic, Fused()))
    for one, two in zip(plain, fused, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    if per_chain:
        alone = integrate(Phase(*(part[3:4] for part in start)), quartic, float(step[3]), 4, metric)
        torch.testing.assert_close(alone.position, plain.position[3:4], rtol=1e-12, atol=1e-12)


@pytest.mark.statistical
def test_momenta_have_the_inverse_covariance(metric):
    count = 200_000
    momentum = draw_momentum(metric, torch.zeros(count, 3, dtype=torch.float64))
    dense = metric.covariance if metric.is_dense else torch.diag(metric.covariance)
    precision = torch.linalg.inv(dense)
    found = momentum.mT @ momentum / count
    scale = precision.diagonal().outer(precision.diagonal()).add(precision.square()).div(count).sqrt()
    assert ((found - precision) / scale).abs().max() < 4.5
    expected = 0.5 * torch.einsum("ci,ij,cj->c", momentum, dense, momentum)
    torch.testing.assert_close(kinetic(metric, momentum), expected)
    torch.testing.assert_close(velocity(metric, momentum), momentum @ dense)
    white = whiten(metric, velocity(metric, momentum))
    torch.testing.assert_close(white.square().sum(-1), 2 * expected)


@pytest.mark.parametrize(
    "covariance",
    [torch.ones(2, 3), torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.ones(1, 2, 2)],
)
def test_a_covariance_that_is_none_is_refused(covariance):
    with pytest.raises(ValueError, match="covariance: expected"):
        metric_of(covariance)


def test_what_is_not_finite_is_rejected_and_counted():
    error = torch.tensor([0.0, math.nan, math.inf, -math.inf, 1001.0, -2000.0], dtype=torch.float64)
    accepted, rate, diverging = metropolis(error)
    assert accepted.tolist() == [True, False, False, False, False, True]
    assert rate.tolist() == [1, 0, 0, 0, 0, 1]
    assert diverging.tolist() == [False, True, True, True, True, False]
    old = phase_at(torch.zeros(6, 3, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.float64))
    new = Phase(*(torch.full_like(part, math.nan) for part in old))
    kept = choose(torch.zeros(6, dtype=torch.bool), new, old)
    assert all(torch.equal(one, two) for one, two in zip(kept, old, strict=True))


def test_a_diverging_chain_leaves_the_others_alone():
    from evidentia.inference.mcmc.hmc import hmc_init, hmc_step

    def step(first):
        position = torch.ones(3, 3, dtype=torch.float64)
        position[0] = first
        return hmc_step(
            hmc_init(position, quartic), quartic, 0.4, 6, identity_metric(position),
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    (calm, _), (wild, info) = step(0.5), step(1e4)
    assert info.diverging.tolist() == [True, False, False]
    assert torch.equal(calm.position[1:], wild.position[1:])
    assert (wild.position[0] == 1e4).all()
