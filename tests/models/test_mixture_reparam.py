"""Mixtures with reparameterised draws: quantiles, Jacobians, closed-form expectations."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from evidentia.models.distributions.implicit import implicit_sample
from evidentia.models.distributions.mixture import MixtureReparam, distributional_transform
from evidentia.models.distributions.truncated_normal import TruncatedNormal

F64 = torch.float64
LOGITS = torch.tensor([0.3, -0.5, 0.2], dtype=F64)
LOC = torch.tensor([-1.0, 0.4, 2.0], dtype=F64)
SCALE = torch.tensor([0.5, 0.8, 1.2], dtype=F64)
# two-dimensional toy: f(z) = z'Az + sin(b'z)
A = torch.tensor([[1.0, 0.4], [0.2, -0.5]], dtype=F64)
B = torch.tensor([0.7, -1.1], dtype=F64)
LOC_2D = torch.tensor([[0.0, 1.0], [1.5, -0.5]], dtype=F64)
TRIL = torch.tensor([[[0.8, 0.0], [0.5, 0.6]], [[1.1, 0.0], [-0.7, 0.5]]], dtype=F64)


def one_dimensional(logits: Tensor, loc: Tensor, scale: Tensor) -> MixtureReparam:
    return MixtureReparam(dist.Categorical(logits=logits), dist.Normal(loc, scale))


def quantile(law: MixtureReparam, u: Tensor) -> Tensor:
    low, high = torch.full_like(u, -30.0), torch.full_like(u, 30.0)
    for _ in range(50):
        middle = (low + high) / 2
        left = law.cdf(middle) < u
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    z = (low + high) / 2
    for _ in range(2):
        z = z - (law.cdf(z) - u) / law.log_prob(z).exp()
    return z


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_dimension_against_quantile_differences(dtype: torch.dtype) -> None:
    # spec 5.3: five-point differences at u = .05 … .95, tolerance 1e-8 (float32: its own digits)
    u = torch.linspace(0.05, 0.95, 19, dtype=F64)
    values = (LOGITS, LOC, SCALE)
    given = [v.to(dtype).expand(19, 3).clone().requires_grad_() for v in values]
    z = quantile(one_dimensional(*values), u).to(dtype)
    law = one_dimensional(*given)
    transform = distributional_transform(law.mixture.logits.log_softmax(-1), law.components, z)
    y = implicit_sample(z, transform[0][..., 0], transform[1][..., 0])
    gradient = torch.autograd.grad(y.sum(), given)
    tolerance = 1e-8 if dtype is F64 else 1e-5
    for part, (i, value) in zip(gradient, enumerate(values), strict=True):
        for j in range(3):
            h = 1e-4 * abs(float(value[j]))

            def at(step: float, i=i, j=j) -> Tensor:
                moved = [v.clone() for v in values]
                moved[i][j] += step
                return quantile(one_dimensional(*moved), u)

            expected = (at(-2 * h) - 8 * at(-h) + 8 * at(h) - at(2 * h)) / (12 * h)
            torch.testing.assert_close(part[:, j].double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["scalar", "gaussian"])
def test_both_tails_keep_their_digits(kind: str) -> None:
    # mirroring draw and locations mirrors the draw's motion; 1 - F has no digits left at 7.5 sd unless F is
    # replaced by the survival function there
    gradient = []
    for sign in (1.0, -1.0):
        logits = torch.tensor([0.3, -0.2], dtype=F64).requires_grad_()
        loc = sign * torch.tensor([-0.4, 0.5], dtype=F64)
        z = sign * torch.tensor([7.5, 7.5], dtype=F64)
        parts = dist.Normal(loc, 1.0)
        if kind == "gaussian":
            parts = dist.MultivariateNormal(loc[:, None].expand(2, 2), torch.eye(2, dtype=F64))
        s, log_density, lower = distributional_transform(logits.log_softmax(-1), parts, z)
        y = implicit_sample(z, s, log_density, lower) if lower is not None else None
        if y is None:
            y = implicit_sample(z, s[..., 0], log_density[..., 0])
        gradient.append(torch.autograd.grad((sign * y).sum(), logits)[0])
    torch.testing.assert_close(gradient[0], gradient[1], rtol=1e-9, atol=0)


def components(kind: str) -> torch.distributions.Distribution:
    torch.manual_seed(1)
    loc = torch.randn(3, 4, dtype=F64)
    if kind == "gaussian":
        lower = 0.4 * torch.randn(3, 4, 4, dtype=F64).tril(-1)
        return dist.MultivariateNormal(
            loc, scale_tril=lower + torch.diag_embed(0.5 + torch.rand(3, 4, dtype=F64))
        )
    return {"normal": dist.Normal, "laplace": dist.Laplace}[kind](loc, 0.7).to_event(1)


@pytest.mark.parametrize("kind", ["gaussian", "normal", "laplace"])
def test_jacobian_of_the_transform_against_differences(kind: str) -> None:
    parts = components(kind)
    log_weight = LOGITS.log_softmax(-1)
    z = MixtureReparam(dist.Categorical(logits=LOGITS), parts).sample((6,))
    _, log_density, lower = distributional_transform(log_weight, parts, z)
    step = 1e-6 * torch.eye(4, dtype=F64)
    columns = [
        (
            distributional_transform(log_weight, parts, z + e)[0]
            - distributional_transform(log_weight, parts, z - e)[0]
        )
        / 2e-6
        for e in step
    ]
    ours = log_density.exp()[..., None] * (lower.tril(-1) + torch.eye(4, dtype=F64))
    torch.testing.assert_close(ours, torch.stack(columns, -1), rtol=1e-6, atol=2e-9)


@pytest.mark.parametrize("kind", ["gaussian", "normal", "laplace"])
def test_density_is_the_product_of_the_conditionals(kind: str) -> None:
    parts = components(kind)
    law = MixtureReparam(dist.Categorical(logits=LOGITS), parts)
    z = law.sample((6,))
    _, log_density, _ = distributional_transform(LOGITS.log_softmax(-1), parts, z)
    reference = dist.MixtureSameFamily(dist.Categorical(logits=LOGITS), parts)
    torch.testing.assert_close(law.log_prob(z), reference.log_prob(z))
    torch.testing.assert_close(law.log_prob(z), log_density.sum(-1))
    torch.testing.assert_close(law.mean, reference.mean)
    torch.testing.assert_close(law.variance, reference.variance)


def test_diagonal_gaussian_equals_independent_normals() -> None:
    scale = torch.tensor([[0.5, 1.0], [0.8, 0.3]], dtype=F64)
    logits = torch.tensor([0.2, -0.1], dtype=F64)
    gradient = []
    for full in (False, True):
        given = [v.clone().requires_grad_() for v in (logits, LOC_2D, scale)]
        parts = (
            dist.MultivariateNormal(given[1], scale_tril=torch.diag_embed(given[2]))
            if full
            else dist.Normal(given[1], given[2]).to_event(1)
        )
        z = torch.tensor([[0.3, 0.2], [2.0, -1.0], [-4.0, 3.0]], dtype=F64)
        transform = distributional_transform(given[0].log_softmax(-1), parts, z)
        y = implicit_sample(z, *transform)
        gradient.append(torch.autograd.grad((y @ A * y).sum(), given))
    for left, right in zip(*gradient, strict=True):
        torch.testing.assert_close(left, right)


def expectation(logits: Tensor, loc: Tensor, tril: Tensor) -> Tensor:
    covariance = tril @ tril.mT
    quadratic = (loc @ A * loc).sum(-1) + (A * covariance).sum((-1, -2))
    wave = (loc @ B).sin() * (-0.5 * (covariance @ B @ B)).exp()
    return (logits.softmax(-1) * (quadratic + wave)).sum(-1)


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["full", "diagonal", "single precision"])
def test_two_dimensions_against_the_closed_form(kind: str) -> None:
    number = 20_000
    dtype = torch.float32 if kind == "single precision" else F64
    tril = torch.diag_embed(TRIL.diagonal(dim1=-2, dim2=-1)) if kind == "diagonal" else TRIL
    values = (torch.tensor([0.3, -0.5], dtype=F64), LOC_2D, tril)
    given = [v.to(dtype).expand(number, *v.shape).clone().requires_grad_() for v in values]
    parts = (
        dist.Normal(given[1], given[2].diagonal(dim1=-2, dim2=-1)).to_event(1)
        if kind == "diagonal"
        else dist.MultivariateNormal(given[1], scale_tril=given[2])
    )
    z = MixtureReparam(dist.Categorical(logits=given[0]), parts).rsample()
    loss = (z @ A.to(dtype) * z).sum(-1) + (z @ B.to(dtype)).sin()
    gradient = torch.autograd.grad(loss.sum(), given)
    leaves = [v.clone().requires_grad_() for v in values]
    exact = torch.autograd.grad(expectation(*leaves), leaves)
    for estimate, truth in zip(gradient, exact, strict=True):
        estimate = estimate.double()
        spread = estimate.std(0) / number**0.5
        used = spread > 0  # the upper triangle of a Cholesky factor, and off-diagonals of a diagonal one
        error = (estimate.mean(0) - truth)[used] / spread[used]
        assert used.any()
        assert (error.abs() < 4.5).all()


def test_components_with_different_supports() -> None:
    low, high = torch.tensor([-2.0, 0.5], dtype=F64), torch.tensor([0.0, 3.0], dtype=F64)
    loc = torch.zeros(2, dtype=F64).requires_grad_()
    logits = torch.zeros(2, dtype=F64).requires_grad_()
    law = MixtureReparam(dist.Categorical(logits=logits), TruncatedNormal(loc, 1.0, low, high))
    z = law.rsample((200,))
    assert law.support.check(z).all()
    assert not law.support.check(torch.tensor(0.2, dtype=F64))
    with pytest.raises(ValueError, match="any component"):
        law.log_prob(torch.tensor(0.2, dtype=F64))
    for part in torch.autograd.grad(z.sum() + law.log_prob(z).sum(), (loc, logits)):
        assert torch.isfinite(part).all()


def test_shapes_broadcasting_and_plates() -> None:
    weights = dist.Categorical(logits=torch.zeros(2))
    parts = dist.MultivariateNormal(torch.zeros(5, 2, 3), torch.eye(3))
    law = MixtureReparam(weights, parts)
    assert (law.batch_shape, law.event_shape) == ((5,), (3,))
    z = law.rsample((7,))
    assert z.shape == (7, 5, 3)
    assert law.log_prob(z).shape == (7, 5)
    assert law.expand((4, 5)).rsample((2,)).shape == (2, 4, 5, 3)
    assert law.to_event(1).log_prob(z).shape == (7,)
    assert law.support.event_dim == 1
    with pytest.raises(NotImplementedError, match="scalar events"):
        law.cdf(z)


def test_far_outlying_components_stay_finite() -> None:
    # the densities of coordinates before d underflow; the weights stay in log space
    loc = torch.tensor([[0.0] * 6, [200.0] * 6], dtype=torch.float32).requires_grad_()
    law = MixtureReparam(dist.Categorical(logits=torch.zeros(2)), dist.Normal(loc, 0.5).to_event(1))
    (gradient,) = torch.autograd.grad(law.rsample((500,)).sum(0).sum(), loc)
    assert torch.isfinite(gradient).all()
    # separate components: each draw moves with its own location
    torch.testing.assert_close(gradient.sum(0), torch.full((6,), 500.0), rtol=1e-3, atol=0)


def test_second_derivatives_are_refused() -> None:
    loc = LOC.clone().requires_grad_()
    z = one_dimensional(LOGITS, loc, SCALE).rsample()
    (first,) = torch.autograd.grad(z, loc, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(first.sum(), loc)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_capture_in_several_dimensions(kind: str) -> None:
    parts = components(kind)

    def draw(logits: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        if kind == "gaussian":
            moved = dist.MultivariateNormal(parts.loc + shift, scale_tril=parts.scale_tril)
        else:
            moved = dist.Laplace(parts.base_dist.loc + shift, 0.7).to_event(1)
        law = MixtureReparam(dist.Categorical(logits=logits), moved)
        z = law.rsample((2,))
        return z, *torch.autograd.grad(law.log_prob(z).sum() + z.square().sum(), (logits, shift))

    with pyro.validation_enabled(False):
        given = LOGITS.clone().requires_grad_(), torch.tensor(0.1, dtype=F64).requires_grad_()
        graph = make_fx(draw)(*given)
        torch.manual_seed(2)
        eager = draw(*given)
        torch.manual_seed(2)
        for ours, theirs in zip(graph(*given), eager, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_what_it_refuses() -> None:
    weights = dist.Categorical(logits=torch.zeros(2))
    with pytest.raises(ValueError, match=r"must be Categorical, got Normal"):
        MixtureReparam(dist.Normal(0.0, 1.0), dist.Normal(torch.zeros(2), 1.0))
    with pytest.raises(ValueError, match=r"must have 2 components .* batch shape \(3,\)"):
        MixtureReparam(weights, dist.Normal(torch.zeros(3), 1.0))
    with pytest.raises(ValueError, match="StudentT without one"):
        MixtureReparam(weights, dist.StudentT(torch.ones(2)))
    with pytest.raises(ValueError, match="Fix: flatten the event"):
        MixtureReparam(weights, dist.Normal(torch.zeros(2, 3, 3), 1.0).to_event(2))
