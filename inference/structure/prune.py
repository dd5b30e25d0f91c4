"""Which weights or latents a posterior calls uninformative: its relative density where the prior peaks."""

from typing import Any

import torch
from torch import Tensor


def relative_density(loc: Tensor, scale: Tensor) -> Tensor:
    """``ρ_i = q(0) / q(μ_i) = exp(−μ_i² / (2 σ_i²))`` in (0, 1]; near 1 the weight is uninformative.

    Args:
        loc: means μ of the Gaussian posterior.
        scale: standard deviations σ, same shape.

    Returns:
        ρ, same shape.

    References:
        Graves, 2011. Practical variational inference for neural networks.

    Example:
        >>> import torch
        >>> relative_density(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]))
        tensor([1.0000, 0.1353])
    """
    return (-0.5 * (loc / scale).square()).exp()


def kept(loc: Tensor, scale: Tensor, threshold: float) -> Tensor:
    """Which weights stay: ``ρ ≤ threshold``, that is ``|μ| / σ ≥ sqrt(−2 log threshold)``.

    Args:
        loc: means of the Gaussian posterior.
        scale: standard deviations, same shape.
        threshold: in (0, 1]; 1 keeps everything.

    Returns:
        Boolean, same shape.

    Raises:
        ValueError: a threshold outside (0, 1].

    References:
        Graves, 2011. Practical variational inference for neural networks.

    Example:
        >>> import torch
        >>> kept(torch.tensor([0.1, 0.4]), torch.tensor([1.0, 1.0]), threshold=0.95)
        tensor([False,  True])
    """
    if not 0 < threshold <= 1:
        raise ValueError(
            f"prune: expected a relative density in (0, 1], got {threshold}. Weights above it are removed; "
            "0.95 removes those with |mean| below 0.32 standard deviations."
        )
    return relative_density(loc, scale) <= threshold


def mode_density(posterior: Any, prior: Any) -> Tensor:
    """``ρ = q(mode of p) / q(mode of q)`` in (0, 1], elementwise; near 1 the variable is uninformative.

    For a Gaussian q and a prior that peaks at zero this is `relative_density`. A mode belongs to a
    coordinate: both laws must be of the same variable, and ρ of log w is not ρ of w. For a vector multiply
    the entries.

    Args:
        posterior: q, a distribution of scalars with a ``mode``.
        prior: p, likewise, of a batch shape that broadcasts with q's.

    Returns:
        ρ of the common batch shape.

    Raises:
        ValueError: a mode on the edge of the support, where a density is zero or infinite.

    References:
        Graves, 2011. Practical variational inference for neural networks.

    Example:
        >>> import torch
        >>> from torch.distributions import Normal
        >>> mode_density(Normal(torch.tensor([0.0, 2.0]), 1.0), Normal(0.0, 3.0))
        tensor([1.0000, 0.1353])
    """
    with torch.no_grad():
        peaks = (posterior.mode, prior.mode)
        inside = all(bool(posterior.support.check(peak).all()) for peak in peaks)
        ratio = posterior.log_prob(peaks[1]) - posterior.log_prob(peaks[0]) if inside else None
        if ratio is None or not bool(
            (torch.isfinite(ratio) & torch.isfinite(prior.log_prob(peaks[1]))).all()
        ):
            raise ValueError(
                f"mode_density: expected modes inside the support, got {peaks[0].tolist()} for the posterior "
                f"and {peaks[1].tolist()} for the prior. Fix: use a prior with an interior mode (an inverse "
                "gamma for a squared scale), or compare expected scales"
            )
        return ratio.exp()


def active_latents(posterior: Any, prior: Any, threshold: float = 1e-3) -> Tensor:
    """Which latents are used, by the law of their scales: ``ρ ≤ threshold`` with ρ of `mode_density`.

    The posterior of a used scale concentrates away from the prior's mode, ``log ρ ~ −n`` in the number of
    rows; that of an unused one stays near the prior, ρ of order 0.01 to 1. Any threshold between separates
    them.

    Args:
        posterior: q(γ²) with batch shape (latent,).
        prior: p(γ²), likewise.
        threshold: in (0, 1].

    Returns:
        Boolean, (latent,); its sum is the number of active latents.

    Raises:
        ValueError: a threshold outside (0, 1], or a mode on the edge of the support.

    References:
        Karaletsos, Rätsch, 2015. Automatic relevance determination for deep generative models.

    Example:
        >>> import torch
        >>> from torch.distributions import InverseGamma, LogNormal
        >>> scales = LogNormal(torch.tensor([1.0, -6.9]), torch.tensor([0.1, 1.0]))
        >>> active_latents(scales, InverseGamma(torch.ones(2), 1e-3 * torch.ones(2)))
        tensor([ True, False])
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"active_latents: expected a threshold in (0, 1], got {threshold}. Fix: 1e-3")
    return mode_density(posterior, prior) <= threshold
