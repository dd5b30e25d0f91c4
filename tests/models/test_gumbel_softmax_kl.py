"""Divergences of Gumbel-Softmax laws against closed forms and Monte Carlo."""

import oracles
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from evidentia.models.distributions.gumbel_softmax import (
    GumbelSoftmax,
    gumbel_softmax_kl,
    gumbel_softmax_kl_ratio,
)
from evidentia.models.distributions.kl import register_kl

S = torch.tensor(oracles.GUMBEL_WEIGHTS, dtype=torch.float64)


def divided_difference_kl(log_s: Tensor, log_t: Tensor) -> Tensor:
    """The closed form by Hermite and Genocchi, for distinct ratios."""
    r = (log_t - log_s).exp()
    size = len(r)
    harmonic = sum(1 / i for i in range(1, size))
    total = torch.zeros((), dtype=torch.float64)
    for k in range(size):
        others = torch.cat([r[:k], r[k + 1 :]])
        total = total + r[k] ** (size - 1) * r[k].log() / (r[k] - others).prod()
    return -r.log().sum() + size * (total - harmonic)


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_closed_form(size: int) -> None:
    log_s = torch.randn(size, dtype=torch.float64)
    log_t = log_s + torch.linspace(-2, 2, size, dtype=torch.float64)  # well separated ratios
    expected = divided_difference_kl(log_s, log_t)
    torch.testing.assert_close(gumbel_softmax_kl(log_s, log_t), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.statistical
@pytest.mark.parametrize("size", [3, 5, 8])
def test_monte_carlo(size: int) -> None:
    log_s, log_t = torch.randn(2, size, dtype=torch.float64)
    q, p = GumbelSoftmax(1.0, log_s, validate_args=False), GumbelSoftmax(1.0, log_t, validate_args=False)
    y = q.sample((1_000_000,))
    terms = q.log_prob(y) - p.log_prob(y)
    z = (terms.mean() - gumbel_softmax_kl(log_s, log_t)) / (terms.std() / 1000)
    assert abs(float(z)) < 4


def test_two_operations_give_the_coth_form() -> None:
    delta = torch.tensor([1e-3, 0.5, 2.0, 6.0, 40.0, 500.0], dtype=torch.float64)
    log_s = torch.stack([delta, torch.zeros_like(delta)], -1)
    expected = delta / torch.tanh(delta / 2) - 2
    ours = gumbel_softmax_kl(log_s, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


def test_golden() -> None:
    assert abs(float(gumbel_softmax_kl(S.log(), torch.zeros(3).double())) - oracles.GUMBEL_KL) < 1e-6


def test_equal_and_nearly_equal_ratios() -> None:
    assert abs(float(gumbel_softmax_kl(S.log(), S.log()))) < 1e-14
    assert abs(float(gumbel_softmax_kl(S.log(), (5 * S).log()))) < 1e-12  # the law does not change
    a = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    near = a + torch.tensor([0.0, 1e-9, 0.0, 1e-9], dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    assert abs(float(gumbel_softmax_kl(a, zero) - gumbel_softmax_kl(near, zero))) < 1e-8


def test_independent_of_the_temperature() -> None:
    register_kl()
    for temperature in (0.1, 1.0, 5.0):
        q, p = GumbelSoftmax(temperature, S.log()), GumbelSoftmax(temperature, torch.zeros(3).double())
        assert abs(float(kl_divergence(q, p)) - oracles.GUMBEL_KL) < 1e-6


def test_bounds_the_categorical_divergence() -> None:
    log_s, log_t = torch.randn(2, 200, 4, dtype=torch.float64)
    discrete = kl_divergence(Categorical(logits=log_s), Categorical(logits=log_t))
    assert (gumbel_softmax_kl(log_s, log_t) >= discrete).all()
    for delta, categorical, relaxed in oracles.GUMBEL_KL_AGAINST_CATEGORICAL:
        log_s = torch.tensor([delta, 0.0], dtype=torch.float64)
        zero = torch.zeros(2, dtype=torch.float64)
        discrete = kl_divergence(Categorical(logits=log_s), Categorical(logits=zero))
        assert abs(float(discrete) - categorical) < 1e-3
        assert abs(float(gumbel_softmax_kl(log_s, zero)) - relaxed) < 1e-3


def test_gradient() -> None:
    log_s, log_t = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(gumbel_softmax_kl, (log_s, log_t))


def test_vectorised_by_vmap() -> None:
    log_s, log_t = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(gumbel_softmax_kl)(log_s, log_t), gumbel_softmax_kl(log_s, log_t))


@pytest.mark.statistical
@pytest.mark.parametrize("ratio", [0.2, 2.0, 5.0])
def test_different_temperatures(ratio: float) -> None:
    log_t = torch.tensor([0.3, -1.0, 0.2], dtype=torch.float64)
    q, p = GumbelSoftmax(0.5, S.log(), validate_args=False), GumbelSoftmax(0.5 * ratio, log_t)
    p._validate_args = False
    y = q.sample((200_000,))
    terms = q.log_prob(y) - p.log_prob(y)
    z = (terms.mean() - gumbel_softmax_kl_ratio(S.log(), log_t, ratio)) / (terms.std() / 200_000**0.5)
    assert abs(float(z)) < 4.5
    torch.testing.assert_close(
        gumbel_softmax_kl_ratio(S.log(), log_t, 1.0), gumbel_softmax_kl(S.log(), log_t)
    )


def test_dispatch_with_a_batch_of_temperatures() -> None:
    register_kl()
    temperature = torch.tensor([0.5, 1.0], dtype=torch.float64)
    q, p = GumbelSoftmax(0.5, S.log()), GumbelSoftmax(temperature, torch.zeros(3).double())
    value = kl_divergence(q, p)
    assert abs(float(value[0]) - oracles.GUMBEL_KL) < 1e-6
    torch.testing.assert_close(value[1], gumbel_softmax_kl_ratio(S.log(), torch.zeros(3).double(), 2.0))


def test_ratio_must_be_positive() -> None:
    with pytest.raises(ValueError, match="'ratio' must be positive"):
        gumbel_softmax_kl_ratio(S.log(), S.log(), 0.0)
