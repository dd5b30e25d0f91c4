"""Autoencoders: laws, shapes with particles, minibatches, and an encoder that reaches the exact posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from evidentia.inference.fit import fit
from evidentia.models.latent.encoder import Encoder
from evidentia.models.latent.heads import (
    BernoulliHead,
    CategoricalHead,
    DiscretisedLogisticHead,
    GaussianHead,
)
from evidentia.models.latent.vae import VAE, vae_pair
from evidentia.models.pair import Pair

HEADS = {
    "bernoulli": BernoulliHead,
    "categorical": lambda: CategoricalHead(5),
    "logistic": lambda: DiscretisedLogisticHead(5),
    "logistics": lambda: DiscretisedLogisticHead(5, components=2),
    "gaussian": GaussianHead,
}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("full", [False, True])
def test_particles_lead_and_rows_stay_independent(head, full):
    model, guide = vae_pair(3, 6, [8], HEADS[head](), full_covariance=full)
    x = model(size=7).detach()
    with pyro.plate("particles", 4, dim=-2):
        trace = poutine.trace(guide).get_trace(x)
        replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x)
    assert trace.nodes["z"]["value"].shape == (4, 7, 3)
    replayed.compute_log_prob()
    assert replayed.nodes["obs"]["log_prob"].shape == (4, 7)
    # One particle and one row alone give the same log probability.
    z, value = trace.nodes["z"]["value"][2, 4], x[4:5]
    alone = poutine.trace(poutine.condition(model, {"z": z[None]})).get_trace(value)
    alone.compute_log_prob()
    together = replayed.nodes["obs"]["log_prob"][2, 4] + replayed.nodes["z"]["log_prob"][2, 4]
    torch.testing.assert_close(alone.log_prob_sum(), together)


def test_the_encoder_gives_means_and_standard_deviations():
    net = Encoder(4, 2, [5], input_scale=16.0)
    x = 16 * torch.rand(6, 4)
    output = net.encoder(x / 16)
    law = net.distribution(x)
    torch.testing.assert_close(law.mean, output[:, :2])
    torch.testing.assert_close(law.variance, (nn.functional.softplus(output[:, 2:]) + 1e-4).square())


def test_full_covariance_fills_the_triangle_in_order():
    net = Encoder(4, 3, [5], full_covariance=True)
    x = torch.randn(6, 4)
    tril = net.distribution(x).scale_tril
    output = net.encoder(x)
    torch.testing.assert_close(tril.diagonal(dim1=-2, dim2=-1), nn.functional.softplus(output[:, 3:6]) + 1e-4)
    torch.testing.assert_close(tril[:, 1, 0], output[:, 6])
    torch.testing.assert_close(tril[:, 2, :2], output[:, 7:])
    assert (tril.triu(1) == 0).all()


def test_a_minibatch_is_scaled_to_the_data_set():
    model, guide = vae_pair(2, 4, [5])
    x = model(size=12).detach()
    for program in (model, guide):
        trace = poutine.trace(program).get_trace(x[:3], size=12)
        assert trace.nodes["z"]["scale"] == 4.0
        assert [frame.name for frame in trace.nodes["z"]["cond_indep_stack"]] == ["data"]
    # Averaged over disjoint batches the bound is the bound on all the rows, with the latents held fixed.
    z = torch.randn(12, 2)
    pair = [poutine.condition(model, {"z": z})]
    whole = poutine.trace(pair[0]).get_trace(x).log_prob_sum()
    batches = []
    for rows in torch.arange(12).split(3):
        part = poutine.condition(model, {"z": z[rows]})
        batches.append(poutine.trace(part).get_trace(x[rows], size=12).log_prob_sum())
    torch.testing.assert_close(torch.stack(batches).mean(), whole)


def test_a_linear_decoder_and_the_right_full_encoder_make_the_bound_exact():
    scale = 0.6
    model, guide = vae_pair(2, 5, [], GaussianHead(scale), full_covariance=True)
    weight, loc = model.decoder[0].weight.detach(), model.decoder[0].bias.detach()
    precision = torch.eye(2) + weight.T @ weight / scale**2
    gain = torch.linalg.solve(precision, weight.T) / scale**2
    tril = torch.linalg.cholesky(torch.linalg.inv(precision))
    with torch.no_grad():
        layer = guide.encoder[0]
        layer.weight.zero_()
        layer.weight[:2] = gain
        layer.bias[:2] = -gain @ loc
        layer.bias[2:4] = torch.log(torch.expm1(tril.diagonal() - 1e-4))
        layer.bias[4] = tril[1, 0]
    x = model(size=9).detach()
    covariance = weight @ weight.T + scale**2 * torch.eye(5)
    exact = dist.MultivariateNormal(loc, covariance).log_prob(x)
    traced = poutine.trace(guide).get_trace(x)
    joint = poutine.trace(poutine.replay(model, trace=traced)).get_trace(x)
    for trace in (traced, joint):
        trace.compute_log_prob()
    weight_of_row = (
        joint.nodes["obs"]["log_prob"] + joint.nodes["z"]["log_prob"] - traced.nodes["z"]["log_prob"]
    )
    torch.testing.assert_close(weight_of_row, exact, atol=1e-10, rtol=0)


def test_the_prior_is_an_argument():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.randn(3, 2))

        def forward(self):
            parts = dist.Normal(self.loc, 1.0).to_event(1)
            return dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), parts)

    model = VAE(2, 4, [5], prior=Mixture())
    assert model(size=8).shape == (8, 4)
    assert "prior$$$loc" in pyro.get_param_store()
    with pytest.raises(ValueError, match=r"prior.*event shape \(2,\)"):
        VAE(2, 4, [5], prior=lambda: dist.Normal(0.0, 1.0))(size=3)


def test_draws_of_the_prior_predictive():
    model = VAE(2, 4, [5], DiscretisedLogisticHead(17))
    draws = Predictive(model, num_samples=6, parallel=True)(size=3)
    assert draws["obs"].shape == (6, 3, 4)
    model.head.check(draws["obs"].flatten(0, 1))


def test_training_raises_the_bound():
    pyro.set_rng_seed(1)
    pair = vae_pair(2, 6, [8], CategoricalHead(3))
    x = (torch.rand(40, 1) < 0.5).double() * torch.tensor([2.0, 1.0, 2.0, 1.0, 2.0, 0.0])
    result = fit(pair, x, objective=TraceMeanField_ELBO(), num_steps=150, learning_rate=0.03, seed=0)
    assert result.losses[-10:].mean() < 0.5 * result.losses[:3].mean()


@pytest.mark.parametrize("validation", [True, False])
def test_data_that_the_head_cannot_explain_are_refused(validation):
    model, guide = vae_pair(2, 4, [5])
    with pyro.validation_enabled(validation), pytest.raises(ValueError, match="CategoricalHead"):
        Trace_ELBO().loss(model, guide, torch.full((3, 4), 0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair: pair.model(), r"Fix: model\(size=100\)"),
        (lambda pair: pair.model(torch.zeros(3, 5)), r"shape \(n, 4\), got \(3, 5\)"),
        (lambda pair: pair.model(torch.zeros(3, 4), size=2), "at least the 3 rows"),
        (lambda pair: pair.guide(), "expected data x, got None"),
        (lambda pair: Encoder(4, 2, input_scale=0.0), "positive input_scale"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    pair = vae_pair(2, 4, [5])
    assert isinstance(pair, Pair)
    with pytest.raises(ValueError, match=message):
        call(pair)
