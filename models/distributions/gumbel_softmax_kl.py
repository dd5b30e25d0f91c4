"""The Kullback-Leibler divergence between two Gumbel-Softmax laws, without sampling."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

_TAIL = 40.0  # exp(-40) is far below double precision
_NUM_NODES = 1024


def _trapezium(low: Tensor, high: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Equally spaced nodes ``(*b, num_nodes)`` from low to high, and their spacing ``(*b)``."""
    step = (high - low) / (num_nodes - 1)
    return low[..., None] + step[..., None] * torch.arange(
        num_nodes, dtype=low.dtype, device=low.device
    ), step


def gumbel_softmax_kl(logits_q: Tensor, logits_p: Tensor) -> Tensor:
    """``KL(GS(s, τ) ‖ GS(s', τ))`` in nats; it does not depend on the common temperature τ.

    With ``r_l = s'_l/s_l`` the divergence is ``-Σ_l log r_l + K E_{D~Dir(1)} log⟨r, D⟩``. For distinct r it
    has the closed form ``-Σ log r_l + K [Σ_l r_l^{K-1} log r_l / ∏_{m≠l}(r_l - r_m) - H_{K-1}]``, which
    cancels badly when two ratios are close or K is large. The same expectation is evaluated here by
    Frullani's integral,
    ``E log⟨r, D⟩ = ∫ [(1 + e^u)^{-K} - ∏_l (1 + r_l e^u)^{-1}] du``: the integrand is analytic and decays
    exponentially, so the trapezium rule is exact to rounding for any K and any ratios, equal ones included.
    The result is differentiable. For K = 2 it is ``δ coth(δ/2) - 2`` with δ the difference of the log-odds.

    It does *not* tend to the categorical divergence as τ → 0: it grows like \\|δ\\|, so relaxed odds are
    compressed.

    Args:
        logits_q: ``log s``, shape ``(*batch, K)``.
        logits_p: ``log s'``, shape ``(*batch, K)``.

    Returns:
        Shape ``(*batch)``, in the dtype of the arguments; computed in double precision.

    Example:
        >>> import torch
        >>> round(gumbel_softmax_kl(torch.tensor([3.0, 1.0, 0.5]).log(), torch.zeros(3)).item(), 6)
        0.566541

    References:
        Maddison, Mnih & Teh, 2017. The Concrete distribution.
        Micchelli, 1980. A constructive approach to Kergin interpolation (Hermite–Genocchi formula).
    """
    dtype = torch.promote_types(logits_q.dtype, logits_p.dtype)
    ratio = logits_p.double() - logits_q.double()
    ratio = ratio - ratio.mean(-1, keepdim=True)
    size = ratio.shape[-1]
    low = -ratio.amax(-1).detach() - _TAIL - math.log(size)
    high = -ratio.amin(-1).detach() + _TAIL / size
    u, step = _trapezium(low, high, _NUM_NODES)
    product = (-softplus(ratio[..., None, :] + u[..., None]).sum(-1)).exp()
    integrand = (-size * softplus(u)).exp() - product
    return (size * step * integrand.sum(-1)).to(dtype)


def gumbel_softmax_kl_ratio(logits_q: Tensor, logits_p: Tensor, ratio: float) -> Tensor:
    """``KL(GS(s, τ) ‖ GS(s', τ'))`` in nats for different temperatures, with ``ratio = τ'/τ``.

    There is no closed form. With ``ρ = τ'/τ``, unit exponentials E_l and ``b_l = log s'_l - ρ log s_l`` the
    divergence is
    ``-(K-1) log ρ + K [ψ(1)(1 - ρ) - ψ(K) + E log Σ_l e^{b_l} E_l^ρ - mean b]``. The expectation of the
    logarithm is Frullani's integral over the Laplace transforms ``φ(c) = E exp(-e^c E^ρ)``, each by the
    trapezium rule.

    Args:
        logits_q: ``log s``, shape ``(*batch, K)``.
        logits_p: ``log s'``, shape ``(*batch, K)``.
        ratio: temperature of p over temperature of q, positive; cost grows with it.

    Raises:
        ValueError: the ratio is not positive and finite.

    Example:
        >>> import torch
        >>> s, t = torch.tensor([3.0, 1.0, 0.5]).log(), torch.zeros(3)
        >>> round(gumbel_softmax_kl_ratio(s, t, 1.0).item(), 6)
        0.566541
        >>> round(gumbel_softmax_kl_ratio(s, t, 2.0).item(), 4)
        2.4308

    References:
        Maddison, Mnih & Teh, 2017. The Concrete distribution.
    """
    if not 0 < ratio < math.inf:
        raise ValueError(
            f"gumbel_softmax_kl_ratio: argument 'ratio' must be positive and finite, got {ratio}."
        )
    dtype = torch.promote_types(logits_q.dtype, logits_p.dtype)
    b = logits_p.double() - ratio * logits_q.double()
    b = b - b.mean(-1, keepdim=True)
    size = b.shape[-1]
    low = -b.amax(-1).detach() - _TAIL - math.log(size) - max(0.0, math.lgamma(1 + ratio))
    high = -b.amin(-1).detach() + _TAIL * max(1.0, ratio) / size + 4.0
    u, step = _trapezium(low, high, _NUM_NODES)
    num_inner = math.ceil(200 * max(1.0, ratio))
    w, inner_step = _trapezium(b.new_tensor(-_TAIL), b.new_tensor(math.log(_TAIL) + 1), num_inner)
    survival = b.new_ones(u.shape)
    for i in range(size):
        c = u + b[..., i : i + 1]
        survival = survival * (w - w.exp() - (c[..., None] + ratio * w).exp()).exp().sum(-1) * inner_step
    mean_log = step * ((-u.exp()).exp() - survival).sum(-1)
    psi = torch.digamma(b.new_tensor([1.0, float(size)]))
    kl = -(size - 1) * math.log(ratio) + size * (psi[0] * (1 - ratio) - psi[1] + mean_log)
    return kl.to(dtype)
