"""Are ranks uniform? Simultaneous bands for their distribution function, chi-squared, and two directions."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Band", "chi_squared", "direction_scores", "ecdf_band", "ecdf_difference", "ecdf_p_value"]

# Tails that are equal in theory (of a point and of its mirror image) differ in their last digits.
ROUNDING = 1e-9


class Band(NamedTuple):
    r"""A simultaneous band for the distribution function of uniform ranks.

    Attributes:
        points: (L,) the values \(i / (L + 1)\).
        lower: (L,) least distribution function inside the band, minus `points`.
        upper: (L,) largest one, minus `points`.
        level: probability that uniform ranks are inside everywhere.

    References:
        Säilynoja, Bürkner, Vehtari, 2022, Graphical test for discrete uniformity.
    """

    points: Tensor
    lower: Tensor
    upper: Tensor
    level: float


def ecdf_band(num: int, num_draws: int, level: float = 0.95, *, num_simulations: int = 4000) -> Band:
    r"""The band that all of a uniform sample's distribution function stays in with probability `level`.

    At each point the number of smaller ranks is Binomial\((N, i/(L+1))\). The band is the set of counts whose
    tail probability \(2 \min(P(\le k), P(\ge k))\) is at least \(\gamma\), with one \(\gamma\) for all
    points, found by simulating uniform ranks (always the same ones).

    Args:
        num: N, ranks.
        num_draws: L; ranks are 0 ... L.
        level: of the whole band.
        num_simulations: samples that give \(\gamma\).

    Raises:
        ValueError: a number or the level is out of range.

    References:
        Säilynoja, Bürkner, Vehtari, 2022, Graphical test for discrete uniformity and its applications in
        goodness-of-fit evaluation and multiple sample comparison.

    Example:
        >>> band = ecdf_band(200, 99)
        >>> 0.08 < float(band.upper.max()) < 0.12
        True
    """
    if num < 1 or num_draws < 1:
        raise ValueError(f"ecdf_band: expected N and L >= 1, got {num}, {num_draws}. Fix: num=200")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: expected between 0 and 1, got {level}. Fix: level=0.95")
    tails = _tails(num, num_draws)
    null = _null_statistics(num, num_draws, num_simulations)
    # The (1 - level) quantile; a sample at gamma itself is inside.
    gamma = null[int((1.0 - level) * len(null))]
    inside = tails >= gamma * (1.0 - ROUNDING)
    points = torch.arange(1, num_draws + 1, dtype=torch.float64) / (num_draws + 1)
    lower = inside.double().argmax(1).double() / num
    upper = (num - inside.flip(1).double().argmax(1)).double() / num
    return Band(points, lower - points, upper - points, level)


def ecdf_difference(ranks: Tensor, num_draws: int) -> Tensor:
    r"""\(\hat F(i/(L+1)) - i/(L+1)\), \(i = 1 \dots L\): the curves that a `Band` encloses.

    Args:
        ranks: (N, ...) whole numbers 0 ... L.
        num_draws: L.

    Returns:
        (L, ...) float64.

    References:
        Säilynoja, Bürkner, Vehtari, 2022, Graphical test for discrete uniformity.

    Example:
        >>> ecdf_difference(torch.arange(4), 3)
        tensor([0., 0., 0.], dtype=torch.float64)
    """
    counts = _counts(ranks, num_draws)
    points = torch.arange(1, num_draws + 1, dtype=torch.float64) / (num_draws + 1)
    return counts / len(ranks) - points.reshape(-1, *(1,) * (counts.dim() - 1))


def ecdf_p_value(ranks: Tensor, num_draws: int, *, num_simulations: int = 4000) -> Tensor:
    """How often uniform ranks leave a band that these ranks just touch: one number for the whole curve.

    Args:
        ranks: (N, ...) whole numbers 0 ... L.
        num_draws: L.
        num_simulations: as in `ecdf_band`; no p-value is below one over it.

    Returns:
        (...) float64. For a band of level 0.95, inside means p > 0.05.

    References:
        Säilynoja, Bürkner, Vehtari, 2022, Graphical test for discrete uniformity.

    Example:
        >>> float(ecdf_p_value(torch.arange(100), 99))
        1.0
        >>> float(ecdf_p_value(torch.zeros(100).long(), 99)) < 0.001
        True
    """
    num = len(ranks)
    tails = _tails(num, num_draws)
    counts = _counts(ranks, num_draws).long()
    shape = counts.shape[1:]
    statistic = tails.gather(1, counts.reshape(num_draws, -1)).amin(0)
    null = _null_statistics(num, num_draws, num_simulations)
    below = torch.searchsorted(null, statistic * (1.0 + ROUNDING), right=True).double()
    return ((1.0 + below) / (1.0 + len(null))).reshape(shape)


def chi_squared(ranks: Tensor, num_draws: int, *, bins: int | None = None) -> Tensor:
    r"""p-values of \(\sum_b (n_b - e_b)^2 / e_b\) over a histogram of the ranks.

    Expected counts follow the number of ranks in each bin, so L + 1 need not be a multiple of the bins.

    Args:
        ranks: (N, ...) whole numbers 0 ... L.
        num_draws: L.
        bins: about ten ranks in each, 20 at most, when None.

    Returns:
        (...) float64.

    Raises:
        ValueError: fewer than two bins.

    References:
        Talts, Betancourt, Simpson, Vehtari, Gelman, 2018, Validating Bayesian inference algorithms with
        simulation-based calibration.

    Example:
        >>> float(chi_squared(torch.arange(100), 99))
        1.0
    """
    num, cells = len(ranks), num_draws + 1
    bins = max(2, min(20, num // 10, cells)) if bins is None else bins
    if not 2 <= bins <= cells:
        raise ValueError(f"bins: expected 2 ... {cells}, got {bins}. Fix: leave it out")
    place = torch.arange(cells) * bins // cells
    expected = torch.bincount(place, minlength=bins).double() * num / cells
    flat = place[ranks.long()].reshape(num, -1)
    observed = torch.zeros(bins, flat.shape[1], dtype=torch.float64)
    observed.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.float64))
    statistic = ((observed - expected[:, None]) ** 2 / expected[:, None]).sum(0)
    freedom = torch.tensor((bins - 1) / 2.0, dtype=torch.float64)
    return torch.special.gammaincc(freedom, statistic / 2.0).reshape(ranks.shape[1:])


def direction_scores(ranks: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
    r"""Standard scores of the ranks' first two moments: bias and dispersion of the posterior.

    With \(u = (r + \tfrac12)/(L+1)\), \(\bar u - \tfrac12\) and \(\overline{(u - \frac12)^2}\) over their
    standard deviations for uniform ranks.

    Args:
        ranks: (N, ...) whole numbers 0 ... L.
        num_draws: L.

    Returns:
        Bias: above zero where the truth is above the draws too often (the posterior is too low). Dispersion:
        above zero where the truth is at either end too often (the posterior is too narrow).

    References:
        Cook, Gelman, Rubin, 2006, Validation of software for Bayesian models using posterior quantiles.

    Example:
        >>> bias, dispersion = direction_scores(torch.tensor([0, 9] * 50), 9)
        >>> float(bias), round(float(dispersion), 1)
        (0.0, 16.5)
    """
    num, cells = len(ranks), num_draws + 1
    square = (((torch.arange(cells, dtype=torch.float64) + 0.5) / cells) - 0.5) ** 2
    deviation = (ranks.double() + 0.5) / cells - 0.5
    bias = deviation.mean(0) / (square.mean() / num).sqrt()
    dispersion = (deviation.square().mean(0) - square.mean()) / (square.var(correction=0) / num).sqrt()
    return bias, dispersion


def _counts(ranks: Tensor, num_draws: int) -> Tensor:
    """(L, ...): how many ranks are below i, i = 1 ... L."""
    if bool(((ranks < 0) | (ranks > num_draws)).any()):
        raise ValueError(
            f"ranks: expected 0 ... {num_draws}, got {int(ranks.min())} ... {int(ranks.max())}. "
            "Fix: num_draws is the number of draws that the truth is ranked among"
        )
    flat = ranks.long().reshape(len(ranks), -1)
    table = torch.zeros(num_draws + 1, flat.shape[1], dtype=torch.float64)
    table.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.float64))
    return table.cumsum(0)[:-1].reshape(num_draws, *ranks.shape[1:])


@lru_cache(maxsize=32)
def _tails(num: int, num_draws: int) -> Tensor:
    """(L, N + 1): twice the smaller tail probability of every count at every point."""
    chance = torch.arange(1, num_draws + 1, dtype=torch.float64)[:, None] / (num_draws + 1)
    count = torch.arange(num + 1, dtype=torch.float64)
    choose = math.lgamma(num + 1) - torch.lgamma(count + 1) - torch.lgamma(num - count + 1)
    mass = (choose + count * chance.log() + (num - count) * torch.log1p(-chance)).exp()
    below = mass.cumsum(1)
    above = mass.flip(1).cumsum(1).flip(1)
    return 2.0 * torch.minimum(below, above)


@lru_cache(maxsize=32)
def _null_statistics(num: int, num_draws: int, num_simulations: int) -> Tensor:
    """Sorted smallest tail probabilities of simulated uniform ranks."""
    generator = torch.Generator().manual_seed(20220101)
    tails = _tails(num, num_draws)
    found = []
    for begin in range(0, num_simulations, 1000):
        many = min(1000, num_simulations - begin)
        ranks = torch.randint(num_draws + 1, (num, many), generator=generator)
        found.append(tails.gather(1, _counts(ranks, num_draws).long()).amin(0))
    return torch.cat(found).sort().values
