"""Standard normal on an interval, in log space: mass, quantiles and their derivatives in the far tails."""

import math

import torch
from torch import Tensor

from evidentia.models.distributions.gauss_legendre import unit_nodes

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def log_ndtr(x: Tensor) -> Tensor:
    """``log Φ(x)`` whose gradient is 0 (not NaN) at infinite x.

    Args:
        x: standardised values, any shape; ±inf allowed.

    Example:
        >>> import torch
        >>> log_ndtr(torch.tensor([-torch.inf, 0.0, torch.inf]))
        tensor([   -inf, -0.6931,  0.0000])

    References:
        none; bookkeeping.
    """
    infinite = x.isinf()
    value = torch.special.log_ndtr(torch.where(infinite, torch.zeros_like(x), x))
    return torch.where(infinite, torch.where(x > 0, 0.0, -math.inf).to(x.dtype), value)


def leans_right(low: Tensor, high: Tensor) -> Tensor:
    """Where the nearer tail is the right one: ``low + high > 0``; such intervals are mirrored.

    After mirroring, both ends lie where Φ is small or near 1/2, so no digits are lost.

    References:
        none; bookkeeping.
    """
    return low + high > 0  # (-inf, inf) gives NaN > 0, which is False: not mirrored


def log_mass(low: Tensor, high: Tensor) -> Tensor:
    """``log(Φ(high) - Φ(low))`` on the nearer tail, with gradients; either end may be infinite.

    ``log Φ(b) + log(1 - exp(-(log Φ(b) - log Φ(a))))``. For a narrow interval of width w the relative error
    grows like machine epsilon / w.

    Example:
        >>> import torch
        >>> log_mass(torch.tensor(20.0), torch.tensor(torch.inf))
        tensor(-203.9172)

    References:
        none; bookkeeping.
    """
    flip = leans_right(low, high)
    upper = log_ndtr(torch.where(flip, -low, high))
    lower = log_ndtr(torch.where(flip, -high, low))
    return upper + (-torch.expm1(lower - upper)).log()


def ndtri_exp(log_p: Tensor) -> Tensor:
    """The inverse of ``log_ndtr``: x with ``log Φ(x) = log_p``, for log_p down to about -1e15.

    ``ndtri`` where ``exp(log_p)`` is representable with all digits; in the far left tail an asymptotic start
    ``-√(y - log(2π y))``, ``y = -2 log_p``, and two Newton steps on the concave ``log Φ``. No gradient.

    Args:
        log_p: logarithms of probabilities, float64, any shape.

    Example:
        >>> import torch
        >>> ndtri_exp(torch.tensor([-5000.0, -1.0], dtype=torch.float64))
        tensor([-99.9447,  -0.3375], dtype=torch.float64)

    References:
        none; bookkeeping.
    """
    far = log_p < -300
    near = torch.where(far, -1.0, log_p)
    left = torch.special.ndtri(near.exp())
    right = -torch.special.ndtri(-torch.expm1(near))
    central = torch.where(near < -math.log(2), left, right)
    y = -2 * torch.where(far, log_p, -300.0)
    x = -(y - (2 * math.pi * y).log()).sqrt()
    for _ in range(2):
        value = torch.special.log_ndtr(x)
        hazard = (-0.5 * x.square() - HALF_LOG_2PI - value).exp()
        x = x - (value + 0.5 * y) / hazard
    x = torch.where(log_p.isinf(), log_p, x)
    return torch.where(far, x, central)


def interval_quantile(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x in [low, high] with ``Φ(x) = (1 - u) Φ(low) + u Φ(high)``; no gradient (see `quantile_partials`).

    Args:
        u: in [0, 1], float64; broadcasts with ``low`` and ``high``.
        low: lower end, may be -inf.
        high: upper end, may be inf.

    Example:
        >>> import torch
        >>> low, high = torch.tensor(30.0).double(), torch.tensor(torch.inf).double()
        >>> interval_quantile(torch.tensor(0.5).double(), low, high)
        tensor(30.0231, dtype=torch.float64)

    References:
        none; bookkeeping.
    """
    flip = leans_right(low, high)
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    lower, upper = log_ndtr(a), log_ndtr(b)
    share, rest = torch.where(flip, 1 - u, u), torch.where(flip, u, 1 - u)
    x = ndtri_exp(upper + torch.logaddexp(share.log(), rest.log() + lower - upper))
    x = torch.minimum(torch.maximum(x, a), b)
    return torch.where(flip, -x, x)


def quantile_partials(x: Tensor, u: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of `interval_quantile` at its value x with respect to u, low and high.

    ``dx/du = mass / φ(x)``, ``dx/dlow = (1-u) exp((x² - low²)/2)``, ``dx/dhigh = u exp((x² - high²)/2)``;
    0 for an infinite end.

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """

    def ratio(end: Tensor) -> Tensor:
        infinite = end.isinf()
        finite = torch.where(infinite, torch.zeros_like(end), end)
        return torch.where(infinite, 0.0, (0.5 * (x - finite) * (x + finite)).exp())

    du = (log_mass(low, high) + 0.5 * x.square() + HALF_LOG_2PI).exp()
    return du, (1 - u) * ratio(low), u * ratio(high)


def tail_moments(distance: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``t = ξ - distance`` for ξ standard normal in ``[distance, distance + width]``.

    By 64 nodes on the density ``exp(-distance t - t²/2)``, cut where it has fallen to e^-40. Closed forms
    in terms of hazards lose ``eps · distance⁴`` here.

    Args:
        distance: positive and not small (from about 1), any shape.
        width: positive, may be infinite.

    Example:
        >>> import torch
        >>> mean, variance = tail_moments(torch.tensor(1e3).double(), torch.tensor(torch.inf).double())
        >>> round(float(mean) * 1e3, 6), round(float(variance) * 1e6, 6)  # nearly exponential
        (0.999998, 0.999994)

    References:
        none; bookkeeping.
    """
    points, weights = unit_nodes(64, distance)
    reach = 80 / (distance + (distance.square() + 80).sqrt())
    t = torch.minimum(width, reach)[..., None] * points
    density = (-distance[..., None] * t - 0.5 * t.square()).exp() * weights
    density = density / density.sum(-1, keepdim=True)
    mean = (density * t).sum(-1)
    return mean, (density * (t - mean[..., None]).square()).sum(-1)
