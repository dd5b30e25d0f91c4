"""Which weights a posterior calls uninformative: the relative density of its Gaussian at zero."""

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
