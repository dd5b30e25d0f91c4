"""Conditional CDFs and densities of mixture components: what the distributional transform is made of."""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal

from evidentia.models.distributions.implicit import coordinate_law


class ComponentTerms(NamedTuple):
    """Terms of K components at draws of D coordinates; coordinate d is conditional on those before it.

    Fields: ``cdf`` F_kd(z_d | z_<d); ``survival`` 1 - F_kd with its own digits where the family allows;
    ``log_density`` log p_kd, in nats; all ``(*batch, K, D)`` with a graph to the parameters. ``shift`` and
    ``score``, ``(*batch, K, D, D)`` without a graph or None for one coordinate: ``∂F_kd/∂z_j / p_kd`` and
    ``∂ log p_k(z_<d) / ∂z_j``.

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """

    cdf: Tensor
    survival: Tensor
    log_density: Tensor
    shift: Tensor | None
    score: Tensor | None


def component_terms(components: Distribution, z: Tensor, *, slopes: bool) -> ComponentTerms:
    """Terms of ``components`` at detached draws z.

    Full-covariance Gaussians go through ``ε = L^-1 (z - m)``: given z_<d, coordinate d is normal with mean
    ``z_d - L_dd ε_d`` and sd L_dd. Other laws must have independent coordinates with a ``cdf``.

    Args:
        components: batch ``(*batch, K)``, event ``()`` or ``(D,)``.
        z: draws, shape ``(*sample, *batch, *event)``.
        slopes: whether to compute ``shift`` and ``score`` (D > 1 only).

    References:
        none; bookkeeping.
    """
    width = components.event_shape[0] if components.event_shape else 1
    z = z.unsqueeze(-1 - len(components.event_shape))
    if isinstance(components, MultivariateNormal):
        return _gaussian_terms(components, z, slopes=slopes and width > 1)
    leaf = scalar_or_gaussian(components)
    if isinstance(leaf, Normal):
        epsilon = (z - leaf.loc) / leaf.scale
        cdf, survival = torch.special.ndtr(epsilon), torch.special.ndtr(-epsilon)
    else:
        cdf = leaf.cdf(z)
        survival = 1 - cdf
    log_density = leaf.log_prob(z)
    if not components.event_shape:
        cdf, survival, log_density = (term.unsqueeze(-1) for term in (cdf, survival, log_density))
    if not (slopes and width > 1):
        return ComponentTerms(cdf, survival, log_density, None, None)
    with torch.enable_grad():
        point = z.expand(cdf.shape).detach().requires_grad_()
        (slope,) = torch.autograd.grad(leaf.log_prob(point).sum(), point)
    # coordinates are independent: ∂F_kd/∂z_j = p_kd 1[d = j], and z_j enters p_k(z_<d) when j < d
    eye = torch.eye(width, dtype=z.dtype, device=z.device)
    below = torch.ones_like(eye).tril(-1)
    shift, score = eye.expand(*slope.shape, width), below * slope.unsqueeze(-2)
    return ComponentTerms(cdf, survival, log_density, shift, score)


def scalar_or_gaussian(components: Distribution) -> Distribution:
    """The unvalidated law whose ``log_prob`` is used: the Gaussian itself, or one coordinate of the others.

    Components with different supports are evaluated at each other's draws, hence without validation.

    Raises:
        ValueError: the components are discrete, joint but not Gaussian, or have no ``cdf``.

    References:
        none; bookkeeping.
    """
    if isinstance(components, MultivariateNormal):
        gaussian = copy.copy(components)
        gaussian._validate_args = False
        return gaussian
    return coordinate_law(components, "MixtureReparam", "components")


def _gaussian_terms(components: MultivariateNormal, z: Tensor, *, slopes: bool) -> ComponentTerms:
    tril = components.scale_tril
    diagonal = tril.diagonal(dim1=-2, dim2=-1)
    residual = (z - components.loc)[..., None]
    epsilon = torch.linalg.solve_triangular(tril, residual, upper=False)[..., 0]
    log_density = -0.5 * epsilon.square() - diagonal.log() - 0.5 * math.log(2 * math.pi)
    cdf, survival = torch.special.ndtr(epsilon), torch.special.ndtr(-epsilon)
    if not slopes:
        return ComponentTerms(cdf, survival, log_density, None, None)
    with torch.no_grad():
        eye = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device)
        inverse = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)
        shift = diagonal[..., None] * inverse  # ∂F/∂z_j = φ(ε_d) ∂ε_d/∂z_j and p = φ(ε_d)/L_dd
        gain = -epsilon[..., None] * inverse
        score = gain.cumsum(-2) - gain  # sum over the coordinates before d
    return ComponentTerms(cdf, survival, log_density, shift, score)
