"""The Gumbel-Softmax law against its exact properties."""

import math

import oracles
import pytest
import scipy.stats
import torch
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from evidentia.models.distributions.gumbel_softmax import GumbelSoftmax

S = torch.tensor(oracles.GUMBEL_WEIGHTS, dtype=torch.float64)


def log_density(law: GumbelSoftmax, gamma: torch.Tensor) -> torch.Tensor:
    """Log-density of γ on its first K-1 coordinates."""
    y = gamma.log()
    return law.log_prob(y - y.logsumexp(-1, keepdim=True)) - y.sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_density_integrates_to_one(temperature: float) -> None:
    # Duffy's map of the square onto the triangle: γ = (u, (1-u) v, (1-u)(1-v)), Jacobian 1 - u
    grid = (torch.arange(600, dtype=torch.float64) + 0.5) / 600
    u, v = torch.meshgrid(grid, grid, indexing="ij")
    gamma = torch.stack([u, (1 - u) * v, (1 - u) * (1 - v)], -1)
    total = (log_density(GumbelSoftmax(temperature, S.log()), gamma).exp() * (1 - u)).mean()
    assert abs(float(total) - 1) < 1e-4


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_density_of_log_ratios_integrates_to_one(temperature: float) -> None:
    # in the coordinates of the log-simplex the same integral has no edges, and converges to 1e-4 and beyond
    z = torch.linspace(-30.0, 30.0, 1200, dtype=torch.float64)
    a, b = torch.meshgrid(z, z, indexing="ij")
    y = torch.stack([a, b, torch.zeros_like(a)], -1).log_softmax(-1)
    total = GumbelSoftmax(temperature, S.log()).log_prob(y).exp().sum() * (z[1] - z[0]) ** 2
    assert abs(float(total) - 1) < 1e-4


def test_log_prob_is_that_of_torch() -> None:
    for temperature in (0.1, 1.0, 10.0):
        y = GumbelSoftmax(temperature, S.log()).sample((50,))
        ours = GumbelSoftmax(temperature, S.log()).log_prob(y)
        theirs = ExpRelaxedCategorical(
            torch.tensor(temperature, dtype=torch.float64), logits=S.log()
        ).log_prob(y)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_rounding_is_categorical_at_every_temperature(temperature: float) -> None:
    law = GumbelSoftmax(temperature, S.log())
    counts = torch.bincount(law.sample((400_000,)).argmax(-1), minlength=3) / 400_000
    assert (counts - torch.tensor(oracles.GUMBEL_ARGMAX)).abs().max() < 4e-3
    torch.testing.assert_close(law.rounded.probs, S / S.sum())


@pytest.mark.statistical
def test_concentration_at_the_centre_for_high_temperature() -> None:
    gamma = GumbelSoftmax(1000.0, S.log()).sample((400_000,)).exp()
    spread = 1000**2 * ((gamma - 1 / 3) ** 2).sum(-1).mean()
    assert abs(float(spread) / oracles.GUMBEL_SPREAD - 1) < 0.01
    log_s = S.log() - S.log().mean()
    exact = (2 * math.pi**2 / 6 + float((log_s**2).sum())) / 9
    assert abs(exact - oracles.GUMBEL_SPREAD) < 1e-5


@pytest.mark.parametrize("size", [2, 3, 8])
def test_density_at_the_centre(size: int) -> None:
    log_s = torch.randn(size, dtype=torch.float64)
    for temperature in (0.2, 1.0, 5.0):
        law = GumbelSoftmax(temperature, log_s)
        centre = torch.full((size,), 1 / size, dtype=torch.float64)
        expected = (
            math.lgamma(size)
            + (size - 1) * math.log(temperature)
            + size * math.log(size)
            + float(log_s.sum())
            - size * float(log_s.logsumexp(-1))
        )
        assert abs(float(log_density(law, centre)) - expected) < 1e-10


def test_decay_away_from_the_centre() -> None:
    gamma = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    temperature = 200.0
    value = log_density(GumbelSoftmax(temperature, S.log()), gamma)
    prefactor = math.lgamma(3) + 2 * math.log(temperature) + S.log().sum() - gamma.log().sum()
    prefactor = prefactor - 3 * S[2].log()  # the smallest coordinate dominates the denominator
    rate = (value - prefactor) / temperature
    expected = -3 * (gamma.log().mean() - gamma.min().log())
    assert abs(float(rate / expected) - 1) < 0.01


@pytest.mark.statistical
def test_inverse_moment() -> None:
    uniform = torch.zeros(3, dtype=torch.float64)
    law = GumbelSoftmax(torch.tensor([0.2, 1.0, 1.01, 3.0], dtype=torch.float64), uniform)
    assert law.inverse_moment_finite(2).tolist() == [False, False, True, True]
    draws = (-2 * GumbelSoftmax(3.0, uniform).sample((400_000,))[:, 0]).exp()
    assert abs(float((draws.mean() - oracles.GUMBEL_INVERSE_SQUARE) / (draws.std() / 400_000**0.5))) < 4.5
    assert abs(float(draws.mean()) - oracles.GUMBEL_INVERSE_SQUARE) < 0.2
    g = math.gamma
    exact = 1 + 4 * g(4 / 3) * g(2 / 3) + 2 * g(5 / 3) * g(1 / 3) + 2 * g(5 / 3) * g(2 / 3) ** 2
    assert abs(exact - oracles.GUMBEL_INVERSE_SQUARE) < 1e-5
    infinite = (-2 * GumbelSoftmax(0.2, uniform).sample((1000,))[:, 0]).exp().mean()
    assert float(infinite) > 1e30


def test_scale_invariance() -> None:
    y = GumbelSoftmax(0.5, S.log()).sample((20,))
    for factor in (1e-6, 7.0, 1e6):
        a, b = GumbelSoftmax(0.5, S.log()).log_prob(y), GumbelSoftmax(0.5, (factor * S).log()).log_prob(y)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.statistical
def test_exponential_representation() -> None:
    temperature = 0.7
    y = GumbelSoftmax(temperature, S.log()).sample((20_000,))
    ours = -temperature * (y[:, 0] - y[:, 1])  # log V_0 - log V_1
    exponentials = -torch.rand(20_000, 2, dtype=torch.float64).log() / S[:2]
    theirs = exponentials[:, 0].log() - exponentials[:, 1].log()
    assert scipy.stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("size", [2, 10, 64])
def test_single_precision_neither_underflows_nor_leaves_the_support(size: int) -> None:
    temperature = torch.logspace(-2, 1, 13)
    law = GumbelSoftmax(temperature, torch.randn(size), validate_args=True)
    y = law.rsample((500,))
    assert y.dtype == torch.float32
    assert torch.isfinite(y).all()
    assert torch.isfinite(law.log_prob(y)).all()


def test_temperature_broadcasts_by_itself() -> None:
    temperature = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    law = GumbelSoftmax(temperature, S.log())
    y = law.sample()
    assert law.log_prob(y).shape == (3,)
    one_by_one = torch.stack(
        [GumbelSoftmax(t, S.log()).log_prob(v) for t, v in zip(temperature, y, strict=True)]
    )
    torch.testing.assert_close(law.log_prob(y), one_by_one)


def test_gradient_with_respect_to_logits_and_temperature() -> None:
    logits = S.log().requires_grad_()
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    GumbelSoftmax(temperature, logits).rsample((10,)).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert temperature.grad != 0


def test_scalar_logits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'logits' must have shape \(\*batch, K\)"):
        GumbelSoftmax(0.5, torch.tensor(1.0))
