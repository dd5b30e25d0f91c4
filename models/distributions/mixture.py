"""Mixtures with reparameterised draws: the distributional transform."""

import math
from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    constraints,
)

from evidentia.models.distributions.implicit import implicit_sample
from evidentia.models.distributions.mixture_components import component_terms, scalar_or_gaussian


@final
class MixtureReparam(TorchDistribution):
    """Mixture ``p(z) = Σ_k π_k p_k(z)`` whose draws have gradients in weights and components.

    The draw is standardised coordinate by coordinate,

        ``S_d = Σ_k w_k(z_<d) F_kd(z_d | z_<d)``,    ``w_k(z_<d) ∝ π_k Π_{e<d} p_ke``,

    and ``dz/dφ = -(∂S/∂z)^-1 ∂S/∂φ``: one triangular solve. Weights stay in log space. Memory is K D² numbers
    for each draw; for many coordinates enumerate the component index instead (`TraceEnum_ELBO`), which is
    exact in the weights.

    Args:
        mixture: `Categorical` over K components, batch ``(*batch)``.
        components: batch ``(*batch, K)``; one coordinate with a ``cdf``, `Independent` of D such coordinates,
            or `MultivariateNormal` (full covariance). The batch shapes broadcast.

    Shapes: batch ``(*batch)``, event of the components. Second derivatives of draws raise
        `NotImplementedError`.

    Raises:
        ValueError: ``mixture`` is not `Categorical`, the numbers of components differ, or the components are
            discrete, have no ``cdf``, or a joint event of another kind.

    Example:
        >>> import torch
        >>> from torch.distributions import Categorical, Normal
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> law = MixtureReparam(Categorical(logits=logits), Normal(torch.tensor([-1.0, 1.0]), 0.5))
        >>> law.rsample((3,)).requires_grad, law.mean.item()
        (True, 0.0)

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
        Graves, 2016. Stochastic backpropagation through mixture density distributions.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(
        self, mixture: Categorical, components: Distribution, *, validate_args: bool | None = None
    ) -> None:
        _check(mixture, components)
        batch_shape = torch.broadcast_shapes(mixture.batch_shape, components.batch_shape[:-1])
        self._set(mixture, components, batch_shape)
        super().__init__(batch_shape, components.event_shape, validate_args=validate_args)

    def _set(self, mixture: Categorical, components: Distribution, batch_shape: torch.Size) -> None:
        self.mixture = mixture.expand(batch_shape)
        self.components = components.expand(torch.Size((*batch_shape, components.batch_shape[-1])))
        self._quiet = scalar_or_gaussian(self.components)
        self._same_family = MixtureSameFamily(self.mixture, self.components, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MixtureReparam":
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(MixtureReparam, _instance)
        batch_shape = torch.Size(batch_shape)
        new._set(self.mixture, self.components, batch_shape)
        super(MixtureReparam, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property
    def support(self) -> Any:
        """The support of the components; where it depends on the component, any of them will do."""
        support = self.components.support
        base = support
        while isinstance(base, constraints.independent):
            base = base.base_constraint
        if any(isinstance(value, Tensor) and value.ndim for value in vars(base).values()):
            return _AnyComponent(support)
        return support

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws without a gradient, shape ``(*sample, *batch, *event)``."""
        with torch.no_grad():
            return self._same_family.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws with implicit gradients, shape ``(*sample, *batch, *event)``."""
        z = self.sample(sample_shape).detach()
        standardised, log_density, lower = distributional_transform(
            self.mixture.logits.log_softmax(-1), self.components, z
        )
        if self.event_shape:
            return implicit_sample(z, standardised, log_density, lower)
        return implicit_sample(z, standardised[..., 0], log_density[..., 0])

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, shape ``(*sample, *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        by_component = self._quiet.log_prob(value.unsqueeze(-1 - len(self.event_shape)))
        if self.event_shape and not self._quiet.event_shape:
            by_component = by_component.sum(-1)
        return (self.mixture.logits.log_softmax(-1) + by_component).logsumexp(-1)

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function ``Σ_k π_k F_k``, one coordinate only, shape ``(*sample, *batch)``.

        Raises:
            NotImplementedError: the event has coordinates.
        """
        if self.event_shape:
            raise NotImplementedError("MixtureReparam.cdf: defined for scalar events only.")
        terms = component_terms(self.components, value, slopes=False)
        return (self.mixture.probs * terms.cdf[..., 0]).sum(-1)

    @property
    def mean(self) -> Tensor:
        """``Σ_k π_k m_k``, shape ``(*batch, *event)``."""
        return self._same_family.mean

    @property
    def variance(self) -> Tensor:
        """Within plus between the components, by coordinate, shape ``(*batch, *event)``."""
        return self._same_family.variance


def distributional_transform(
    log_weight: Tensor, components: Distribution, z: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Standardise detached draws of a mixture: S, the log of the diagonal of ∂S/∂z, and ``diag^-1 ∂S/∂z``.

    In the upper half S - 1 replaces S, written with survival functions: same gradient, no lost digits.

    Args:
        log_weight: log π, normalised, shape ``(*batch, K)``.
        components: see `MixtureReparam`.
        z: draws without a graph, shape ``(*sample, *batch, *event)``.

    Returns:
        S ``(*sample, *batch, D)`` with a graph to the parameters; log-density of each coordinate given those
        before, in nats; the lower triangle ``(*sample, *batch, D, D)``, None when D = 1. These are the
        arguments of `implicit_sample`.

    Example:
        >>> import torch
        >>> from torch.distributions import Normal
        >>> two = Normal(torch.tensor([-1.0, 1.0]), 1.0)
        >>> distributional_transform(torch.tensor([0.5, 0.5]).log(), two, torch.tensor(0.0))[0]
        tensor([0.5000])

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """
    terms = component_terms(components, z, slopes=True)
    earlier = torch.cat([torch.zeros_like(terms.log_density[..., :1]), terms.log_density[..., :-1]], -1)
    log_w = (log_weight[..., None] + earlier.cumsum(-1)).log_softmax(-2)
    w = log_w.exp()
    upper = (w * terms.cdf).sum(-2, keepdim=True).detach() > 0.5
    side = torch.where(upper, -terms.survival, terms.cdf)
    standardised = (w * side).sum(-2)
    with torch.no_grad():
        joint = log_w + terms.log_density
        log_density = joint.logsumexp(-2)
        if terms.shift is None or terms.score is None:
            return standardised, log_density, None
        share = (joint - log_density.unsqueeze(-2)).exp()
        # p -> 0 on every component happens only off the draws; keep the factor finite there
        largest = -math.log(torch.finfo(z.dtype).tiny)
        pull = (log_w - log_density.unsqueeze(-2)).clamp_max(largest).exp()
        pull = pull * (side - standardised.unsqueeze(-2))
        lower = (share[..., None] * terms.shift + pull[..., None] * terms.score).sum(-3)
    return standardised, log_density, lower


@final
class _AnyComponent(constraints.Constraint):
    """Values in the support of at least one component."""

    def __init__(self, base: constraints.Constraint) -> None:
        self.base = base
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        return False

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        return self.base.event_dim

    def __repr__(self) -> str:
        return f"any component of {self.base}"

    def check(self, value: Tensor) -> Tensor:
        """True where some component has the value in its support."""
        return self.base.check(value.unsqueeze(-1 - self.event_dim)).any(-1)


def _check(mixture: Distribution, components: Distribution) -> None:
    if not isinstance(mixture, Categorical):
        raise ValueError(
            f"MixtureReparam: argument 'mixture' must be Categorical, got {type(mixture).__name__}. "
            "Fix: pass Categorical(logits=...) over the components."
        )
    number = mixture.logits.shape[-1]
    if not components.batch_shape or components.batch_shape[-1] != number:
        raise ValueError(
            f"MixtureReparam: argument 'components' must have {number} components in its last batch "
            f"dimension, got batch shape {tuple(components.batch_shape)}. Fix: make the last batch dimension "
            "the component, and use .to_event(1) for coordinates."
        )
    scalar_or_gaussian(components)
    if isinstance(components, Independent) and len(components.event_shape) != 1:
        raise ValueError(
            f"MixtureReparam: events must be scalars or vectors, got event shape "
            f"{tuple(components.event_shape)}. Fix: flatten the event to one dimension."
        )
