"""The gaps of an amortised bound, against a Gaussian posterior whose divergences are known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from evidentia.inference.evidence.gaps import GapEstimate, decompose, gaps
from evidentia.inference.evidence.local_guide import local_guide
from evidentia.inference.fit import fit
from evidentia.inference.objectives.particle import ParticleELBO
from evidentia.models.latent.vae import vae_pair

PRECISION = torch.tensor([[2.0, 0.8], [0.8, 1.5]], dtype=torch.float64)
LOC, SCALE = torch.tensor([0.7, -0.4], dtype=torch.float64), torch.tensor([0.6, 1.1], dtype=torch.float64)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def model(x):
    """The posterior of every datum is N(0, PRECISION⁻¹), its evidence is exp(x)."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), precision_matrix=PRECISION))
        pyro.factor("evidence", x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(LOC, SCALE).expand((len(x), 2)).to_event(1))


def divergences() -> tuple[float, float]:
    """KL(q ‖ posterior) and KL(q* ‖ posterior)."""
    posterior = MultivariateNormal(torch.zeros(2), precision_matrix=PRECISION)
    q = MultivariateNormal(LOC, covariance_matrix=SCALE.square().diag())
    best = MultivariateNormal(torch.zeros(2), covariance_matrix=(1 / PRECISION.diag()).diag())
    return float(kl_divergence(q, posterior)), float(kl_divergence(best, posterior))


def test_the_parts_of_a_known_gap_are_exact():
    amortised, best = divergences()
    assert best == pytest.approx(0.1200, abs=5e-5)
    none = torch.zeros(1)
    found = decompose(
        GapEstimate(torch.tensor([-1.0]), none),
        GapEstimate(torch.tensor([-1.0 - amortised]), none),
        GapEstimate(torch.tensor([-1.0 - best]), none),
    )
    assert found.total.mean == pytest.approx(amortised, abs=1e-10)
    assert found.approximation.mean == pytest.approx(best, abs=1e-10)
    assert found.amortisation.mean == pytest.approx(amortised - best, abs=1e-10)
    # It is not KL(q ‖ q*), as is sometimes written.
    other = kl_divergence(Normal(LOC, SCALE), Normal(torch.zeros(2), PRECISION.diag().rsqrt())).sum()
    assert abs(float(other) - found.amortisation.mean) > 0.1


def test_the_optimised_member_of_the_family_gives_the_known_gaps():
    x = torch.tensor([-1.0, -2.0, 0.5])
    amortised, best = divergences()
    found = gaps((model, guide), x, num_particles=4000, num_steps=400, learning_rate=0.05, seed=1)
    for gap, truth in (
        (found.total, amortised),
        (found.approximation, best),
        (found.amortisation, amortised - best),
    ):
        assert gap.per_datum.shape == (3,)
        z = (gap.per_datum - truth) / gap.standard_error
        assert float(z.abs().max()) < 4.5
        assert gap.mean == pytest.approx(truth, abs=0.06)
    assert "approximation 0.1" in str(found)


def test_the_optimised_member_is_the_known_one():
    x = torch.tensor([-1.0, 2.0])
    free = local_guide(guide, x)
    result = fit(
        (model, lambda x: free()),
        x,
        objective=ParticleELBO("elbo", "stl", num_particles=64),
        num_steps=600,
        learning_rate=0.05,
        schedule=lambda step: 0.99**step,
        seed=0,
    )
    _, best = divergences()
    posterior = MultivariateNormal(torch.zeros(2), precision_matrix=PRECISION)
    for loc, scale in zip(result.params["z.loc"], result.params["z.scale"], strict=True):
        q = MultivariateNormal(loc, covariance_matrix=scale.square().diag())
        assert float(kl_divergence(q, posterior)) == pytest.approx(best, abs=1e-3)


def test_a_full_covariance_has_no_approximation_gap():
    def full(x):
        with pyro.plate("data", len(x)):
            scale = torch.diag_embed(SCALE.expand(len(x), 2))
            pyro.sample("z", dist.MultivariateNormal(LOC.expand(len(x), 2), scale_tril=scale))

    found = gaps((model, full), torch.tensor([0.0, 1.0]), num_steps=500, learning_rate=0.05, seed=0)
    assert found.approximation.mean == pytest.approx(0.0, abs=2e-3)
    assert found.total.mean > 0.3


def test_the_model_is_held_fixed_and_trainable_afterwards():
    net = torch.nn.Linear(1, 1)

    def learned(x):
        pyro.module("net", net)
        shift = pyro.param("shift", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("obs", dist.Normal(net(z.unsqueeze(-1)).squeeze(-1), 1.0), obs=x)

    def amortised(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.tensor([0.2, -0.4])
    trained = fit((learned, amortised), x, num_steps=20, seed=0)
    before = {name: value.clone() for name, value in trained.params.items()}
    gaps(trained, x, num_steps=5, num_particles=10, seed=0)
    with trained.scope():
        for name, value in pyro.get_param_store().items():
            assert torch.equal(value, before[name])
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(bool(parameter.isnan().any()) for parameter in net.parameters())


def test_the_modules_of_a_model_are_left_as_they_were(recwarn):
    pair = vae_pair(2, 4, [8])
    before = [parameter.detach().clone() for parameter in pair.model.parameters()]
    found = gaps(pair, torch.bernoulli(torch.full((5, 4), 0.5)), num_steps=5, num_particles=10, seed=0)
    assert found.total.per_datum.shape == (5,)
    assert not recwarn.list
    assert all(part.training for part in pair.model.modules())
    assert all(parameter.requires_grad for parameter in pair.model.parameters())
    assert all(torch.equal(one, two) for one, two in zip(before, pair.model.parameters(), strict=True))


def test_a_site_that_depends_on_another_latent_is_refused_by_name():
    def hierarchical(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x, 1.0))
            pyro.sample("z", dist.Normal(u, 1.0))

    with pytest.raises(NotImplementedError, match=r"guide site 'z': its parameters change from draw to draw"):
        local_guide(hierarchical, torch.zeros(2))


def test_a_discrete_site_is_refused_by_name():
    def discrete(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(NotImplementedError, match=r"guide site 'k': Bernoulli cannot be set free"):
        local_guide(discrete, torch.zeros(2))


def test_a_guide_without_latents_is_refused():
    with pytest.raises(ValueError, match="guide: it has no latent site"):
        local_guide(lambda x: None, torch.zeros(2))


def test_the_model_keeps_the_parameters_of_the_store():
    def shifted(x):
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("obs", dist.Normal(z, 1.0), obs=x)

    def amortised(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + 1, 0.5**0.5))

    pyro.param("shift", torch.tensor(3.0))
    x = torch.tensor([0.2, 4.0])
    found = gaps((shifted, amortised), x, num_steps=200, seed=0)
    exact = Normal(3.0, 2**0.5).log_prob(x)
    torch.testing.assert_close(found.log_evidence.per_datum, exact, rtol=0, atol=0.02)
