"""Inner bounds per element of a local plate, given each sample of the global latents."""

import pyro
import pyro.distributions as dist
import pyro_pairs as pairs
import pytest
import torch

from evidentia.inference.objectives.particle import ParticleELBO
from evidentia.inference.objectives.presets import IWAE, MIWAE
from evidentia.inference.objectives.two_levels import run_two_levels

N = 6
X = torch.linspace(-1.0, 2.0, N, dtype=torch.float64)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def parameters():
    return [torch.tensor(v, requires_grad=True) for v in (0.2, 0.3, -0.7, 0.5, 0.1, -0.4)]


def hierarchical(values, batch=None, *, exact=False):
    """m ~ N(theta, 1), z_i ~ N(m, 1), x_i ~ N(z_i, .5); q(m) = N(a, e^b), q(z_i | m, x_i) linear in both."""
    theta, a, b, c, d, e = values

    def model():
        m = pyro.sample("m", dist.Normal(theta, 1.0))
        with pyro.plate("data", N, subsample_size=batch) as rows:
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=X[rows])

    def guide():
        m = pyro.sample("m", dist.Normal(a, b.exp()))
        with pyro.plate("data", N, subsample_size=batch) as rows:
            if exact:
                precision = 1.0 + 1.0 / 0.25
                pyro.sample("z", dist.Normal((m + X[rows] / 0.25) / precision, precision**-0.5))
            else:
                pyro.sample("z", dist.Normal(c * X[rows] + d * m, e.exp()))

    return model, guide


def evidence():
    covariance = torch.ones(N, N) + 1.25 * torch.eye(N)
    return float(dist.MultivariateNormal(torch.full((N,), 0.2), covariance).log_prob(X))


def test_shapes_and_the_exact_local_posterior():
    """Where the local guide is exact, the inner bound is log p(x_i | m) for every sample."""
    model, guide = hierarchical(parameters(), exact=True)
    levels = run_two_levels(
        model, guide, (), {}, names=("data",), outer=3, inner=4, max_plate_nesting=1, cut=False
    )
    assert levels.log_p.shape == (3, 4, N)
    assert levels.global_p.shape == (3,)
    m = levels.guide_trace.nodes["m"]["value"].reshape(3)
    inner = torch.logsumexp(levels.log_p - levels.log_q_reparam, 1) - torch.tensor(4.0).log()
    expected = dist.Normal(m[:, None], 1.25**0.5).log_prob(X)
    torch.testing.assert_close(inner, expected, rtol=1e-10, atol=1e-10)
    for gradient in ("total", "dreg"):
        pyro.set_rng_seed(3)
        loss = MIWAE(3, 4, gradient=gradient, local_plates="data", max_plate_nesting=1).loss(model, guide)
        pyro.set_rng_seed(3)
        again = run_two_levels(
            model, guide, (), {}, names=("data",), outer=3, inner=4, max_plate_nesting=1, cut=False
        )
        m = again.guide_trace.nodes["m"]["value"].reshape(3)
        whole = (again.global_p - again.global_q) + dist.Normal(m[:, None], 1.25**0.5).log_prob(X).sum(-1)
        assert loss == pytest.approx(-float(whole.mean().detach()), abs=1e-10)


def draws(objective, count, batch=None):
    values = parameters()
    model, guide = hierarchical(values, batch)
    losses, grads = [], []
    for _ in range(count):
        for value in values:
            value.grad = None
        losses.append(-objective.loss_and_grads(model, guide))
        grads.append(torch.stack([-value.grad for value in values]))
    return torch.tensor(losses), torch.stack(grads)


@pytest.mark.statistical
def test_gradients_agree_and_the_value_is_a_bound():
    pyro.enable_validation(False)
    options = {"local_plates": "data", "max_plate_nesting": 1}
    value, total = draws(MIWAE(100, 3, gradient="total", **options), 40)
    same, dreg = draws(MIWAE(100, 3, **options), 40)
    one, _ = draws(MIWAE(100, 1, gradient="total", **options), 40)
    assert pairs.two_sample(total, dreg).abs().max() < 4.5
    assert pairs.two_sample(value[:, None], same[:, None]).abs().max() < 4.5
    assert float(one.mean()) + 0.3 < float(value.mean()) < evidence()
    # One inner particle is the ELBO of all latents.
    model, guide = hierarchical(parameters())
    elbo = torch.tensor(
        [
            -ParticleELBO("elbo", "total", num_particles=100, max_plate_nesting=1).loss(model, guide)
            for _ in range(40)
        ]
    )
    assert pairs.two_sample(one[:, None], elbo[:, None]).abs().max() < 4.5


@pytest.mark.statistical
@pytest.mark.parametrize("gradient", ["total", "dreg"])
def test_a_minibatch_is_unbiased_where_joint_weights_are_refused(gradient):
    pyro.enable_validation(False)
    options = {"local_plates": "data", "max_plate_nesting": 1}
    with pytest.raises(NotImplementedError, match=r"plate 'data'.*local_plates='data'"):
        IWAE(3).loss(*hierarchical(parameters(), 2))
    value, grad = draws(MIWAE(50, 3, gradient=gradient, **options), 150, batch=2)
    full, full_grad = draws(MIWAE(50, 3, gradient=gradient, **options), 40)
    assert pairs.two_sample(value[:, None], full[:, None]).abs().max() < 4.5
    assert pairs.two_sample(grad, full_grad).abs().max() < 4.5


@pytest.mark.statistical
def test_discrete_local_sites():
    pyro.enable_validation(False)
    logit = torch.tensor(0.3, requires_grad=True)
    slope = torch.tensor(0.5, requires_grad=True)

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N):
            d = pyro.sample("d", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(m + d, 0.7), obs=X)

    def guide():
        m = pyro.sample("m", dist.Normal(slope, 0.6))
        with pyro.plate("data", N):
            pyro.sample("d", dist.Bernoulli(logits=logit + m))

    def rows(gradient):
        found = []
        objective = MIWAE(100, 2, gradient=gradient, local_plates="data", max_plate_nesting=1)
        for _ in range(40):
            logit.grad = slope.grad = None
            objective.loss_and_grads(model, guide)
            found.append(torch.stack([logit.grad, slope.grad]))
        return torch.stack(found)

    score, vimco = rows("total"), rows("vimco")
    assert pairs.two_sample(score, vimco).abs().max() < 4.5
    assert vimco.std(0)[0] < 0.6 * score.std(0)[0]
    with pytest.raises(ValueError, match=r"site 'd'.*gradient='vimco'"):
        MIWAE(3, 2, local_plates="data", max_plate_nesting=1).loss(model, guide)


def test_one_outer_sample_is_iwae():
    model, guide = hierarchical(parameters())
    for objective in (IWAE(4, local_plates="data"), MIWAE(1, 4, local_plates=("data",))):
        assert isinstance(objective.loss(model, guide), float)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"local_plates: expected objective 'miwae'.*'elbo'"):
        ParticleELBO("elbo", "total", local_plates="data")
    model, guide = hierarchical(parameters())
    with pytest.raises(ValueError, match=r"no site lies in \('rows',\)"):
        MIWAE(2, 2, local_plates="rows").loss(model, guide)

    def summed():
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0), obs=torch.zeros(1))

    def apart():
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))

    with pytest.raises(ValueError, match=r"site 'x' lies outside.*depends on a sample"):
        MIWAE(2, 3, local_plates="data").loss(summed, apart)

    def switch():
        pyro.sample("k", dist.Bernoulli(0.5))
        apart()

    with pytest.raises(NotImplementedError, match="site 'k': a global site"):
        MIWAE(2, 3, local_plates="data").loss(switch, switch)
