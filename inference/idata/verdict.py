"""What to think of a sampling run: every check with its limit, and a remedy for each that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from evidentia.inference.idata.checks import Diagnostic

__all__ = ["REMEDIES", "Verdict"]

REMEDIES: Mapping[str, str] = {
    "r_hat": "longer warm-up, more draws, or reparameterise the worst site",
    "nested_r_hat": "longer warm-up, more draws, or reparameterise the worst site",
    "ess_bulk": "more draws, or a better kernel",
    "ess_tail": "more draws, or a better kernel",
    "divergences": "raise target_accept_prob, take a smaller step_size, or use the non-centred form",
    "e_bfmi": "heavy tails or a funnel: reparameterise the model, or a longer warm-up",
    "k_hat": "a richer guide, more particles, or MCMC",
    "unadjusted": "the kernel has a bias of the order of its step; use its Metropolis-adjusted form",
}


class Verdict(NamedTuple):
    """The checks of a sampling run.

    Attributes:
        checks: one `Diagnostic` each.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Buerkner, 2021, Rank-normalization, folding, and localization.

    Example:
        >>> print(Verdict((Diagnostic("r_hat", 1.004, 1.01, "b"), Diagnostic("ess_bulk", 90.0, 400.0, "b"))))
        r_hat         1.004  (limit 1.01, b)  ok
        ess_bulk         90  (limit 400, b)   FAILS: more draws, or a better kernel
    """

    checks: tuple[Diagnostic, ...]

    @property
    def passed(self) -> bool:
        """Whether every check is within its limit."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each failed check: name, value, limit, site, remedy."""
        return tuple(
            f"{check.name} = {check.value:.4g} (limit {check.threshold:g})"
            + (f" at {check.site}" if check.site else "")
            + f": {REMEDIES[check.name]}"
            for check in self.checks
            if not check.passed
        )

    def __str__(self) -> str:
        limits = [
            f"(limit {check.threshold:g}{', ' + check.site if check.site else ''})" for check in self.checks
        ]
        width = max(map(len, limits), default=0)
        return "\n".join(
            f"{check.name:12} {check.value:6.4g}  {limit:{width}}  "
            + ("ok" if check.passed else f"FAILS: {REMEDIES[check.name]}")
            for check, limit in zip(self.checks, limits, strict=True)
        )
