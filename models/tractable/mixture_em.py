"""Gaussian mixtures as pure functions: densities of the components, responsibilities, and EM."""

from __future__ import annotations

from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = [
    "MixtureFit",
    "MixtureParameters",
    "component_log_prob",
    "gaussian_mixture_em",
    "mixture_start",
    "mixture_step",
]

_COLLAPSED = 1e-12  # variance of a component relative to the data's, below which it has no width


class MixtureParameters(NamedTuple):
    """weights (K,), loc (K, D), scale: lower Cholesky factors (K, D, D), or standard deviations (K, D).

    References:
        none; bookkeeping.
    """

    weights: Tensor
    loc: Tensor
    scale: Tensor


def component_log_prob(x: Tensor, parameters: MixtureParameters) -> Tensor:
    r"""\(\log \pi_k + \log N(x_i; m_k, C_k)\) for rows and components, in nats.

    Its log-sum-exp over k is the evidence of a row, its softmax the responsibilities.

    Args:
        x: (n, D).
        parameters: of K components.

    Returns:
        (n, K).

    References:
        Bishop, 2006, Pattern recognition and machine learning, chapter 9.

    Example:
        >>> one = MixtureParameters(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2))
        >>> component_log_prob(torch.zeros(3, 2), one).shape
        torch.Size([3, 1])
    """
    weights, loc, scale = parameters
    law = dist.MultivariateNormal(loc, scale_tril=scale) if scale.dim() == 3 else dist.Normal(loc, scale)
    if scale.dim() == 2:
        law = law.to_event(1)
    log_prob: Tensor = law.log_prob(x[:, None, :])
    return log_prob + weights.log()


class MixtureStep(NamedTuple):
    """New parameters, and the log-likelihood of the old ones: nats for one datum.

    References:
        none; bookkeeping.
    """

    parameters: MixtureParameters
    log_likelihood: Tensor


def mixture_step(x: Tensor, parameters: MixtureParameters, *, floor: float = 0.0) -> MixtureStep:
    r"""One EM step: \(r_{ik} \propto \pi_k N(x_i; m_k, C_k)\), then weighted moments.

    \(n_k = \sum_i r_{ik}\), \(\pi_k = n_k/n\), \(m_k = \sum_i r_{ik}x_i/n_k\),
    \(C_k = \sum_i r_{ik}(x_i - m_k)(x_i - m_k)^\top/n_k + \text{floor}\,I\).

    Args:
        x: (n, D).
        parameters: the old ones; the covariances keep their form, full or diagonal.
        floor: added to every variance. Without it the log-likelihood never falls; with it, it may.

    Returns:
        The new parameters, and the mean log-likelihood at the old ones.

    Raises:
        ValueError: a component without data, or one that has collapsed on too few of them.

    References:
        Dempster, Laird, Rubin, 1977, Maximum likelihood from incomplete data via the EM algorithm.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0], [3.0]])
        >>> step = mixture_step(x, MixtureParameters(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1)))
        >>> step.parameters.loc
        tensor([[1.]])
    """
    joint = component_log_prob(x, parameters)
    evidence = joint.logsumexp(-1, keepdim=True)
    responsibility = (joint - evidence).exp()
    mass = responsibility.sum(0)
    spread = x.var(0, correction=0)
    for k in range(len(mass)):
        if not bool(mass[k] > 10 * torch.finfo(x.dtype).eps):
            raise _collapse(k, float(mass[k].detach()), "has no data left")
    loc = responsibility.mT @ x / mass[:, None]
    residual = x[:, None, :] - loc
    if parameters.scale.dim() == 2:
        variance = (responsibility[..., None] * residual.square()).sum(0) / mass[:, None] + floor
        smallest, scale = (variance / spread).amin(-1), variance.sqrt()
    else:
        weighted = (responsibility[..., None] * residual).permute(1, 2, 0)
        covariance = weighted @ residual.transpose(0, 1) / mass[:, None, None]
        covariance = covariance + floor * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        scale, info = torch.linalg.cholesky_ex(covariance)
        pivots = scale.diagonal(dim1=-2, dim2=-1).square() / spread
        smallest = torch.where(info == 0, pivots.amin(-1), 0.0)
    for k in range(len(mass)):
        if not bool(smallest[k] > _COLLAPSED):
            raise _collapse(k, float(mass[k].detach()), "has no width in some direction")
    return MixtureStep(MixtureParameters(mass / len(x), loc, scale), evidence.mean())


class MixtureFit(NamedTuple):
    """The parameters, and the mean log-likelihood before each step in nats for one datum, (steps,).

    References:
        none; bookkeeping.
    """

    parameters: MixtureParameters
    log_likelihood: Tensor


@torch.no_grad()
def gaussian_mixture_em(
    x: Tensor,
    start: MixtureParameters,
    *,
    num_steps: int = 200,
    tolerance: float = 1e-6,
    floor: float = 0.0,
) -> MixtureFit:
    """A local maximum of the likelihood by EM.

    Args:
        x: (n, D).
        start: where to start, see `mixture_start`; its form of covariance is kept.
        num_steps: largest number of steps.
        tolerance: stop when a step raises the mean log-likelihood by less, in nats for one datum.
        floor: added to every variance, see `mixture_step`.

    Returns:
        The parameters and the course of the log-likelihood.

    Raises:
        ValueError: a component collapses.

    References:
        Dempster, Laird, Rubin, 1977, Maximum likelihood from incomplete data via the EM algorithm.

    Example:
        >>> x = torch.cat([torch.randn(20, 2) - 4, torch.randn(20, 2) + 4])
        >>> result = gaussian_mixture_em(x, mixture_start(x, 2), floor=1e-4)
        >>> result.parameters.loc.shape
        torch.Size([2, 2])
    """
    parameters, history = start, list[Tensor]()
    for _ in range(num_steps):
        step = mixture_step(x, parameters, floor=floor)
        history.append(step.log_likelihood)
        parameters = step.parameters
        if len(history) > 1 and abs(float(history[-1] - history[-2])) < tolerance:
            break
    return MixtureFit(parameters, torch.stack(history) if history else x.new_zeros(0))


def mixture_start(x: Tensor, components: int, *, diagonal: bool = False) -> MixtureParameters:
    """A start for EM: means at different rows drawn at random, the data's covariance, equal weights.

    Args:
        x: (n, D); the rows are drawn from torch's generator.
        components: K, at most n.
        diagonal: standard deviations for each column instead of full covariances.

    Raises:
        ValueError: K out of range, or data that are constant in some direction.

    References:
        McLachlan, Peel, 2000, Finite mixture models.

    Example:
        >>> mixture_start(torch.randn(10, 2), 3).scale.shape
        torch.Size([3, 2, 2])
    """
    if x.dim() != 2 or not 1 <= components <= len(x):
        raise ValueError(
            f"gaussian_mixture: expected between 1 and {len(x)} components for x {tuple(x.shape)}, "
            f"got {components}"
        )
    loc = x[torch.randperm(len(x))[:components]]
    centred = x - x.mean(0)
    deviation = centred.square().mean(0).sqrt()
    root, info = torch.linalg.cholesky_ex(centred.mT @ centred / len(x))
    if not bool((deviation > 0).all()) or (not diagonal and bool(info != 0)):
        raise ValueError(
            "gaussian_mixture: the data are constant in some direction, so no full covariance exists. "
            "Fix: drop constant columns, or use diagonal=True"
        )
    scale = deviation if diagonal else root
    weights = x.new_full((components,), 1 / components)
    return MixtureParameters(weights, loc, scale.expand(components, *scale.shape).clone())


def _collapse(component: int, mass: float, what: str) -> ValueError:
    return ValueError(
        f"gaussian_mixture: component {component} (mass {mass:.3g} data) {what}: the likelihood is unbounded "
        "there. Fix: floor=1e-4 (in squared units of the data), fewer components, or another start"
    )
