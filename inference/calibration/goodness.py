"""The report of a calibration study: one line for each quantity, with direction and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from evidentia.inference.calibration.coverage import contraction, coverage, z_scores
from evidentia.inference.calibration.ecdf import chi_squared, direction_scores, ecdf_p_value
from evidentia.inference.calibration.sbc import SBCResult

__all__ = ["CalibrationReport", "Line", "calibration_report", "holm"]

LEVELS = (0.5, 0.8, 0.95)
# Ranks among draws that remember each other pile up at both ends without any fault of the kernel.
REMEMBERING = 0.3

REMEDIES = {
    "calibrated": "",
    "under-dispersed": "too narrow: a richer guide (full covariance, flow) or MCMC; check scales, Jacobians",
    "over-dispersed": "too wide: check prior and likelihood scales of the model; train the guide longer",
    "biased low": "too low: compare the sampled model with the simulator (priors, Jacobian, offsets)",
    "biased high": "too high: compare the sampled model with the simulator (priors, Jacobian, offsets)",
    "misshapen": "look at the ECDF difference; a mixture of directions, or a part of the data sets fails",
}
CORRELATED = "draws of a chain are correlated: a larger thinning before anything else"


class Line(NamedTuple):
    """One quantity.

    Attributes:
        quantity: its name.
        chi2_p: of the histogram of ranks.
        ecdf_p: of the whole curve; above 0.05 it is inside the 95 % band.
        bias: standard score; above zero the posterior is too low.
        dispersion: standard score; above zero the posterior is too narrow.
        p_value: three times the smallest p of curve, bias and dispersion, at most 1.
        adjusted_p: the same after Holm's correction for all quantities.
        coverage: of the central 50, 80 and 95 % intervals, minus their exact probability.
        mean_z: mean posterior score; NaN for a quantity that is no parameter, as is the next.
        contraction: median over data sets.
        verdict: "calibrated", "under-dispersed", "over-dispersed", "biased low", "biased high" (left, right),
            or "misshapen".
        remedy: what to try; "" for a calibrated one.

    References:
        none; bookkeeping.
    """

    quantity: str
    chi2_p: float
    ecdf_p: float
    bias: float
    dispersion: float
    p_value: float
    adjusted_p: float
    coverage: tuple[float, ...]
    mean_z: float
    contraction: float
    verdict: str
    remedy: str


@final
@dataclass(frozen=True)
class CalibrationReport:
    """Lines, and one answer for all of them; printing it shows a table.

    Attributes:
        lines: one for each quantity.
        p_value: smallest adjusted p: the chance, at most, that a right posterior has a quantity as bad.
        level: probability with which a right posterior is called wrong, at most.
        method: what was tested.

    References:
        none; bookkeeping.
    """

    lines: tuple[Line, ...]
    p_value: float
    level: float
    method: str

    @property
    def calibrated(self) -> bool:
        """Whether no quantity is flagged."""
        return self.p_value > self.level

    @property
    def worst(self) -> Line:
        """The quantity with the smallest adjusted p; among equal ones the most biased or dispersed."""
        return min(self.lines, key=lambda line: (line.adjusted_p, -max(abs(line.bias), abs(line.dispersion))))

    @property
    def verdict(self) -> str:
        """That of the worst quantity."""
        return self.worst.verdict

    def __str__(self) -> str:
        head = f"{'quantity':<18} {'chi2 p':>7} {'ECDF p':>7} {'bias':>6} {'disp.':>6} {'adj. p':>7} "
        head += f"{'50 %':>6} {'80 %':>6} {'95 %':>6} {'mean z':>7} {'contr.':>7}  verdict"
        rows = [head]
        for line in self.lines:
            shares = " ".join(f"{share:>+6.3f}" for share in line.coverage)
            rows.append(
                f"{line.quantity[:18]:<18} {line.chi2_p:>7.3f} {line.ecdf_p:>7.3f} {line.bias:>+6.1f} "
                f"{line.dispersion:>+6.1f} {line.adjusted_p:>7.3f} {shares} {line.mean_z:>+7.2f} "
                f"{line.contraction:>7.2f}  {line.verdict}" + (f": {line.remedy}" if line.remedy else "")
            )
        rows.append(
            f"{self.method}: {'calibrated' if self.calibrated else 'NOT calibrated'} (smallest adjusted p "
            f"{self.p_value:.2g}; Holm's correction for {len(self.lines)} quantities, level {self.level})"
        )
        return "\n".join(rows)


def calibration_report(result: SBCResult, *, level: float = 0.05) -> CalibrationReport:
    """Judge every quantity and all of them together.

    For each quantity three tests are made (the whole distribution function, bias, dispersion) and the
    smallest p counts three times. Holm's correction over the quantities then holds the chance that a right
    posterior is flagged anywhere below `level`, however the quantities depend on each other. All parameters
    together have half of the level; the other half goes to the test quantities, which see a small defect of
    every parameter at once. The histogram's p and the coverages are shown, not used.

    Args:
        result: of `sbc`.
        level: of the whole report.

    Raises:
        ValueError: the level is not between 0 and 1.

    References:
        Holm, 1979, A simple sequentially rejective multiple test procedure. Säilynoja, Bürkner, Vehtari,
        2022, Graphical test for discrete uniformity.

    Example:
        >>> ranks = torch.randint(100, (200, 2), generator=torch.Generator().manual_seed(0))
        >>> spread, none = torch.ones(200, 2), torch.zeros(2)
        >>> result = SBCResult(("a", "b"), ranks, 99, torch.randn(200, 2), spread, spread, none == 0, "hmc",
        ...     "truth", 1, none, torch.ones(200))
        >>> calibration_report(result).calibrated
        True
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: expected between 0 and 1, got {level}. Fix: level=0.05")
    ranks, draws = result.ranks, result.num_draws
    chi2, curve = chi_squared(ranks, draws), ecdf_p_value(ranks, draws)
    bias, dispersion = direction_scores(ranks, draws)
    sides = [torch.special.erfc(score.abs() / 2**0.5) for score in (bias, dispersion)]
    p_value = (3.0 * torch.stack([curve, *sides]).amin(0)).clamp(max=1.0)
    # Half of the level for the parameters, half for the functions of all parameters and the data.
    own = result.parameter.double()
    adjusted = holm(p_value, own / own.sum().clamp(min=1) + (1 - own) / (1 - own).sum().clamp(min=1))
    found = coverage(ranks, draws, LEVELS)
    shares = (found.observed - found.nominal[:, None]).T
    # Test quantities depend on the data: the spread of their true values is no prior.
    blank = torch.where(result.parameter, 0.0, torch.nan)
    scores = z_scores(result.truth, result.mean, result.sd).nanmean(0) + blank
    shrunk = contraction(result.truth, result.sd).nanmedian(0).values + blank
    lines = []
    for place, name in enumerate(result.names):
        wrong = float(adjusted[place]) <= level
        verdict = _direction(float(bias[place]), float(dispersion[place])) if wrong else "calibrated"
        remembers = wrong and float(result.autocorrelation[place]) > REMEMBERING
        lines.append(
            Line(
                name,
                float(chi2[place]),
                float(curve[place]),
                float(bias[place]),
                float(dispersion[place]),
                float(p_value[place]),
                float(adjusted[place]),
                tuple(shares[place].tolist()),
                float(scores[place]),
                float(shrunk[place]),
                verdict,
                CORRELATED if remembers else REMEDIES[verdict],
            )
        )
    return CalibrationReport(tuple(lines), float(adjusted.min()), level, result.method)


def holm(p_values: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Holm's adjusted p-values, with weights that share out the level.

    In the order of \(p / w\), \(\tilde p_{(k)} = \max_{j \le k} \min(1, W_j\, p_{(j)} / w_{(j)})\) with
    \(W_j = \sum_{i \ge j} w_{(i)}\); equal weights give the factors \(m - j + 1\).

    Args:
        p_values: (m,).
        weight: (m,) positive; equal when None.

    References:
        Holm, 1979, A simple sequentially rejective multiple test procedure.

    Example:
        >>> holm(torch.tensor([0.5, 0.125, 0.25])).tolist()
        [0.5, 0.375, 0.5]
    """
    weight = torch.ones_like(p_values) if weight is None else weight.to(p_values.dtype)
    order = (p_values / weight).argsort()
    left = weight[order].flip(0).cumsum(0).flip(0)
    sorted_p = (left * (p_values / weight)[order]).clamp(max=1.0).cummax(0).values
    return torch.empty_like(sorted_p).scatter(0, order, sorted_p)


def _direction(bias: float, dispersion: float) -> str:
    """The stronger of two directions; neither where both are weak."""
    if max(abs(bias), abs(dispersion)) < 2.0:
        return "misshapen"
    if abs(bias) >= abs(dispersion):
        return "biased low" if bias > 0 else "biased high"
    return "under-dispersed" if dispersion > 0 else "over-dispersed"
