"""Likelihoods: laws, shapes, and the three kinds of noise."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from evidentia.models.likelihood import Bernoulli, Categorical, Gaussian, Hyper, Poisson
from evidentia.models.pair import Pair


def test_gaussian_laws() -> None:
    value, y = torch.randn(3, 5, 1), torch.randn(5)
    noise = torch.tensor([0.5, 1.0, 2.0])
    law = Gaussian(1.0).distribution(value, noise)
    assert law.batch_shape == (3, 5)
    torch.testing.assert_close(law.log_prob(y), dist.Normal(value[..., 0], noise[:, None]).log_prob(y))
    wide = Gaussian(0.7).distribution(torch.zeros(5, 2))
    assert wide.batch_shape == (5,)
    assert wide.event_shape == (2,)
    assert Gaussian().response_shape(5, 2) == (5, 2)
    assert Gaussian().response_shape(5, 1) == (5,)


def test_noise_may_be_fixed_learned_or_sampled() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    assert Gaussian(0.5).noise(like) == torch.tensor(0.5, dtype=torch.float64)
    assert Gaussian(torch.tensor(0.5)).scale == 0.5
    learned = Gaussian(Hyper(0.5))
    assert learned.noise(like).dtype == torch.float64
    assert list(learned.hyper) == ["noise"]
    assert float(pyro.param("noise").detach()) == pytest.approx(0.5)
    trace = pyro.poutine.trace(Gaussian(dist.HalfNormal(1.0)).noise).get_trace(like)
    assert trace.nodes["noise"]["type"] == "sample"
    assert Poisson().noise(like) is None
    assert Poisson().hyper == {}
    with pytest.raises(ValueError, match="noise scale is not fixed"):
        learned.distribution(torch.zeros(5, 1))


def test_discrete_laws() -> None:
    value = torch.randn(4, 5, 1)
    torch.testing.assert_close(Bernoulli().distribution(value).probs, value[..., 0].sigmoid())
    torch.testing.assert_close(Poisson().distribution(value).rate, value[..., 0].exp())
    wide = torch.randn(4, 5, 3)
    torch.testing.assert_close(Categorical().distribution(wide).probs, wide.softmax(-1))
    assert Categorical().distribution(wide).batch_shape == (4, 5)
    assert repr(Poisson()) == "Poisson()"
    assert repr(Gaussian(Hyper(0.5))) == "Gaussian(scale=Hyper(0.5))"


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "half"])
def test_bad_scales_are_named(scale) -> None:
    with pytest.raises(ValueError, match="'scale' must be"):
        Gaussian(scale)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), [1.0, 0.0]])
def test_bad_hyperparameters_are_named(value) -> None:
    with pytest.raises(ValueError, match="Hyper: the initial value must be positive"):
        Hyper(value)


def test_a_pair_unpacks_into_model_and_guide() -> None:
    def model() -> None: ...
    def guide() -> None: ...

    pair = Pair(model, guide)
    assert (*pair,) == (model, guide)
    assert pair.model is model
