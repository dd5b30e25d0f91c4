"""Implicit reparameterisation: gradients of draws whose sampler has none of its own."""

import copy
from collections.abc import Callable
from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.autograd import Function
from torch.distributions import Distribution, Independent, constraints


def implicit_sample(
    sample: Tensor, standardised: Tensor, log_density: Tensor, lower: Tensor | None = None
) -> Tensor:
    """Give draws the gradient that keeps their standardisation ``S(z; φ) = ε`` constant.

    ``dz/dφ = -(∂S/∂z)^-1 ∂S/∂φ``; for one coordinate with S the CDF F, ``dz/dφ = -∂F/∂φ / p(z)``. Any sampler
    may have produced the draws. For D coordinates S is a chain of conditional CDFs and ``∂S/∂z = diag(p) R``
    with R lower triangular of unit diagonal: one triangular solve on the cotangent.

    Args:
        sample: z, detached draws, shape ``(*batch)``, or ``(*batch, D)`` with ``lower``.
        standardised: S(z; φ) at the detached draws, same shape; the graph to φ starts here.
        log_density: logarithm of the diagonal of ∂S/∂z, in nats, same shape (``log p`` of each coordinate).
        lower: R, shape ``(*batch, D, D)``; only the entries below the diagonal are read.

    Returns:
        The same draws with the gradient. Second derivatives raise `NotImplementedError`: z is held fixed
        inside S, so they would lack terms.

    Example:
        >>> import torch
        >>> z, rate = torch.tensor([0.5]), torch.tensor([2.0], requires_grad=True)
        >>> cdf = 1 - (-rate * z).exp()
        >>> y = implicit_sample(z, cdf, rate.log() - rate * z)
        >>> torch.autograd.grad(y.sum(), rate)[0]  # y = -log(1 - ε) / rate, so dy/drate = -y / rate
        tensor([-0.2500])

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """
    lower = None if lower is None else lower.detach()
    return _Implicit.apply(sample, standardised, log_density.detach(), lower)


def closed_form_sample(
    sample: Tensor, partials: Callable[..., tuple[Tensor, ...]], *parameters: Tensor
) -> Tensor:
    """Give draws the gradient ``∂z/∂φ_i = partials(z, *φ)[i]``, known in closed form.

    The partials are functions of the draw and the parameters, evaluated in the backward pass only. When they
    are differentiable, second derivatives are correct: the draw inside them moves with φ.

    Args:
        sample: z, detached draws, shape ``(*batch)``.
        partials: maps ``(z, *parameters)`` to one tensor of z's shape for each parameter.
        parameters: tensors of z's shape.

    Example:
        >>> import torch
        >>> scale = torch.tensor(2.0, requires_grad=True)
        >>> z = closed_form_sample(torch.tensor(3.0), lambda z, s: (z / s,), scale)
        >>> torch.autograd.grad(z, scale)[0]
        tensor(1.5000)

    References:
        Jankowiak & Obermeyer, 2018. Pathwise derivatives beyond the reparameterization trick.
    """
    return _ClosedForm.apply(sample, partials, *parameters)


@final
class ImplicitReparam(TorchDistribution):
    """A law with a CDF and a density, made reparameterisable.

    ``dz/dφ = -∂F(z; φ)/∂φ · exp(-log p(z; φ))`` for each coordinate; draws come from ``base.sample``. An
    `Independent` base is handled coordinate by coordinate. φ is whatever the base's ``cdf`` depends on.

    Args:
        base: a continuous law with ``cdf``, ``log_prob`` and ``sample``; one coordinate, or `Independent` of
            such laws. Its ``cdf`` must be differentiable in its parameters (torch's Gamma is not: it has
            ``rsample`` already).

    Shapes: batch and event of ``base``. Second derivatives of draws raise `NotImplementedError`.

    Raises:
        ValueError: ``base`` is discrete, has no ``cdf``, or has a joint event that is not `Independent`.

    Example:
        >>> import torch
        >>> loc = torch.tensor(0.0, requires_grad=True)
        >>> law = ImplicitReparam(torch.distributions.Laplace(loc, torch.tensor(1.0)))
        >>> torch.autograd.grad(law.rsample(), loc)[0]
        tensor(1.)

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, base: Distribution, *, validate_args: bool | None = None) -> None:
        self._leaf = coordinate_law(base, "ImplicitReparam", "base")
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ImplicitReparam":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(ImplicitReparam, _instance)
        new.base = self.base.expand(torch.Size(batch_shape))
        new._leaf = coordinate_law(new.base, "ImplicitReparam", "base")
        super(ImplicitReparam, new).__init__(new.base.batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property
    def support(self) -> Any:
        """The support of ``base``."""
        return self.base.support

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws without a gradient, shape ``(*sample, *batch, *event)``."""
        with torch.no_grad():
            return self.base.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws with implicit gradients, shape ``(*sample, *batch, *event)``."""
        z = self.sample(sample_shape).detach()
        return implicit_sample(z, self._leaf.cdf(z), self._leaf.log_prob(z))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, shape ``(*sample, *batch)``."""
        return self.base.log_prob(value)

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function of each coordinate, shape of ``value``."""
        return self._leaf.cdf(value)

    @property
    def mean(self) -> Tensor:
        """Mean of ``base``."""
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        """Variance of ``base``."""
        return self.base.variance


def coordinate_law(law: Distribution, owner: str, argument: str) -> Distribution:
    """The scalar law under `Independent`, unvalidated, after checks that it is continuous and has a CDF.

    Args:
        law: the law to look into.
        owner: class named in messages.
        argument: argument named in messages.

    Raises:
        ValueError: the law is discrete, joint, or has no ``cdf``.

    References:
        none; bookkeeping.
    """
    leaf = law
    while isinstance(leaf, Independent):
        leaf = leaf.base_dist
    name, where = type(leaf).__name__, f"{owner}: argument '{argument}'"
    if leaf.event_shape:
        raise ValueError(
            f"{where} must have independent coordinates, got {name} with event shape "
            f"{tuple(leaf.event_shape)}. Fix: pass a law of one coordinate and .to_event(1)."
        )
    if leaf.support is not None and leaf.support.is_discrete:
        raise ValueError(
            f"{where} must be continuous, got the discrete {name}. Fix: use a relaxation or a score "
            "estimator for this site."
        )
    if type(leaf).cdf is Distribution.cdf:
        raise ValueError(f"{where} must have a cdf, got {name} without one. Fix: give {name} a cdf method.")
    # validation of the whole law has been done; inside, it would only cost and stop graph capture
    leaf = copy.copy(leaf)
    leaf._validate_args = False
    return leaf


class _Implicit(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(sample: Tensor, standardised: Tensor, log_density: Tensor, lower: Tensor | None) -> Tensor:
        return sample.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        return None, _Cotangent.apply(cotangents[0], *ctx.saved_tensors), None, None


class _Cotangent(Function):
    """``-J^-T g``; takes S as an input only so that a second derivative reaches `backward` and is refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, standardised: Tensor, log_density: Tensor, lower: Tensor | None) -> Tensor:
        if lower is not None:
            solved = torch.linalg.solve_triangular(lower.mT, grad[..., None], upper=True, unitriangular=True)
            grad = solved[..., 0]
        # where p underflows, ∂S/∂φ does too: a finite factor keeps the product 0 instead of NaN
        smallest = torch.finfo(log_density.dtype).tiny
        return -grad / log_density.exp().clamp_min(smallest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            "implicit_sample: second derivatives of implicitly reparameterised draws are not supported. "
            "Fix: differentiate once, or use a law with a closed-form gradient (VonMises, TruncatedNormal)."
        )


class _ClosedForm(Function):
    @staticmethod
    def forward(sample: Tensor, partials: Callable[..., tuple[Tensor, ...]], *parameters: Tensor) -> Tensor:
        return sample.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.partials = inputs[1]
        ctx.save_for_backward(output, *inputs[2:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        sample, *parameters = ctx.saved_tensors
        parts = ctx.partials(sample, *parameters)
        return (None, None, *(cotangents[0] * part for part in parts))
