"""Heads: probabilities sum to one over the levels, data outside the support are refused by name."""

import pyro
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from evidentia.models.distributions.discretised_logistic import DiscretisedLogistic
from evidentia.models.hyper import Hyper
from evidentia.models.latent.heads import (
    BernoulliHead,
    CategoricalHead,
    DiscretisedLogisticHead,
    GaussianHead,
)

DISCRETE = {
    "bernoulli": (BernoulliHead, 2),
    "categorical": (lambda: CategoricalHead(17), 17),
    "logistic": (lambda: DiscretisedLogisticHead(17), 17),
    "logistics": (lambda: DiscretisedLogisticHead(5, components=3), 5),
}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_probabilities_sum_to_one_over_the_levels(name, spread):
    build, levels = DISCRETE[name]
    head = build()
    law = head.distribution(spread * torch.randn(4, 7, 3 * head.width))
    assert law.batch_shape == (4, 7)
    assert law.event_shape == (3,)
    every = torch.arange(levels, dtype=torch.float64)[:, None, None, None].expand(-1, 4, 7, 3)
    total = law.base_dist.log_prob(every).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(4, 7, 3), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", DISCRETE)
def test_draws_have_the_probabilities_of_the_law(name):
    build, levels = DISCRETE[name]
    head, draws = build(), 40_000
    law = head.distribution(torch.randn(2 * head.width))
    every = torch.arange(levels, dtype=torch.float64)[:, None].expand(-1, 2)
    probability = law.base_dist.log_prob(every).exp()
    sample = law.sample((draws,))
    head.check(sample)
    frequency = (sample == every[:, None]).double().mean(1)
    error = (probability * (1 - probability) / draws).sqrt().clamp(min=1e-9)
    likely = probability * draws > 10
    assert ((frequency - probability) / error)[likely].abs().max() < 4.5


def test_cells_equal_differences_of_the_distribution_function():
    loc, scale = torch.tensor([3.0, 11.0]), torch.tensor([0.8, 1.5])
    logits = torch.tensor([0.4, 0.6]).log()
    law = DiscretisedLogistic(loc, scale, 17, logits)
    y = torch.arange(17.0)
    edges = torch.cat([torch.tensor([-torch.inf]), y[:-1] + 0.5, torch.tensor([torch.inf])])
    cdf = (torch.sigmoid((edges[:, None] - loc) / scale) * torch.tensor([0.4, 0.6])).sum(-1)
    torch.testing.assert_close(law.log_prob(y).exp(), cdf.diff(), atol=1e-15, rtol=1e-12)


def test_far_tails_keep_finite_values_and_gradients():
    for dtype in (torch.float32, torch.float64):
        loc = torch.tensor([-500.0, 8.0, 3000.0], dtype=dtype, requires_grad=True)
        scale = torch.tensor([1e-3, 0.05, 1e5], dtype=dtype, requires_grad=True)
        law = DiscretisedLogistic(loc[:, None], scale[:, None], 17)
        value = law.log_prob(torch.tensor([8.0, 16.0, 1.0], dtype=dtype))
        gradients = torch.autograd.grad(value.sum(), [loc, scale])
        assert torch.isfinite(value).all()
        assert all(torch.isfinite(g).all() for g in gradients)


def test_gradients_of_a_cell():
    loc, scale, logits = (torch.randn(4, 3, requires_grad=True) for _ in range(3))
    y = torch.tensor([0.0, 1.0, 3.0, 4.0])
    torch.autograd.gradcheck(
        lambda m, s, w: DiscretisedLogistic(m, s.exp(), 5, w).log_prob(y), (loc, scale, logits)
    )


def test_expanding_keeps_the_law():
    law = DiscretisedLogistic(torch.zeros(3, 1), torch.ones(3, 1), 5)
    wide = law.expand([4, 3])
    assert wide.batch_shape == (4, 3)
    y = torch.tensor([0.0, 2.0, 4.0])
    torch.testing.assert_close(wide.log_prob(y), law.log_prob(y).expand(4, 3))
    assert wide.sample((2,)).shape == (2, 4, 3)


@pytest.mark.parametrize("validation", [True, False])
def test_grey_pixels_under_a_bernoulli_are_refused_and_the_right_heads_named(validation):
    grey = torch.tensor([[0.0, 1.0], [0.5, 1.0]])
    with pyro.validation_enabled(validation):
        with pytest.raises(ValueError, match=r"row 1, column 0: 0.5.*CategoricalHead.*DiscretisedLogistic"):
            BernoulliHead().check(grey)
        BernoulliHead().check(grey.round())


@pytest.mark.parametrize("head", [CategoricalHead(17), DiscretisedLogisticHead(17)])
def test_levels_out_of_range_are_refused(head):
    head.check(torch.tensor([[0.0, 16.0]]))
    for bad in (17.0, -1.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match="integer levels 0 … 16"):
            head.check(torch.tensor([[1.0, bad]]))


def test_the_check_stays_out_of_a_captured_graph():
    def program(x):
        BernoulliHead().check(x)
        return 2 * x

    graph = make_fx(program)(torch.ones(2, 2))
    assert torch.equal(graph(torch.ones(2, 2)), 2 * torch.ones(2, 2))


def test_the_noise_of_a_gaussian_head_is_fixed_or_learned():
    fixed, learned = GaussianHead(0.5), GaussianHead(Hyper(0.5))
    assert not list(fixed.parameters())
    assert [name for name, _ in learned.named_parameters()] == ["log_scale"]
    torch.testing.assert_close(learned.scale.detach(), torch.tensor(0.5))
    assert "learned" in repr(learned)
    for head in (fixed, learned):
        law = head.distribution(torch.ones(4, 3))
        torch.testing.assert_close(law.base_dist.scale.detach(), torch.full((4, 3), 0.5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CategoricalHead(1), "at least 2 levels"),
        (lambda: DiscretisedLogisticHead(17, components=0), "at least 1 component"),
        (lambda: GaussianHead(0.0), "positive number"),
        (lambda: CategoricalHead(3).distribution(torch.zeros(4)), "multiple of 3"),
        (lambda: DiscretisedLogistic(torch.zeros(1), torch.ones(1), 1), "at least 2 levels"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
