"""Leave-one-out scores beside the evidence: differences with their pointwise error, and stacking weights.

References:
    Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari et al., 2017);
    Using stacking to average Bayesian predictive distributions (Yao et al., 2018).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Pointwise", "elpd_difference", "elpd_total", "read_pointwise", "stacking_weights"]


@final
class Pointwise(NamedTuple):
    """LOO of one fit, one entry per observation: log predictive density (nats) and k-hat.

    `dims` are the names of the likelihood's dimensions, `shape` their sizes; `improper` tells that the prior
    of the fit has no density, so that its evidence has an arbitrary constant.
    """

    elpd: Floats
    pareto_k: Floats
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    improper: bool = False


def elpd_total(elpd: Floats) -> tuple[float, float]:
    """Sum and standard error of pointwise scores, `SE = √(n Var_i e_i)`, nats for the whole data set.

    Example:
        >>> import numpy as np
        >>> elpd_total(np.array([-1.0, -3.0]))
        (-4.0, 2.0)
    """
    return float(elpd.sum()), float((len(elpd) * elpd.var(ddof=1)) ** 0.5) if len(elpd) > 1 else float("nan")


def elpd_difference(best: Floats, other: Floats) -> tuple[float, float]:
    """How much better `best` predicts, with the standard error of the pointwise differences.

    The two scores belong to the same observations, so their errors cancel in part:
    `SE = √(n Var_i(b_i − o_i))`, not the root of the summed squares.

    Example:
        >>> import numpy as np
        >>> elpd_difference(np.array([-1.0, -3.0]), np.array([-2.0, -4.0]))
        (2.0, 0.0)
    """
    return elpd_total(best - other)


def stacking_weights(elpd: Floats, steps: int = 2000, tolerance: float = 1e-10) -> Floats:
    """Weights of the mixture that predicts best: `argmax_w Σ_i log Σ_k w_k exp(e_ki)` on the simplex.

    The objective is concave; the expectation-maximisation update `w_k ← mean_i w_k p_ki / Σ_j w_j p_ji`
    climbs it without a step size.

    Args:
        elpd: pointwise scores, shape (models, observations).

    Example:
        >>> import numpy as np
        >>> stacking_weights(np.array([[-1.0, -1.0], [-3.0, -3.0]])).round(3).tolist()
        [1.0, 0.0]
    """
    import numpy as np

    density = np.exp(elpd - elpd.max(0))
    weights = np.full(len(elpd), 1.0 / len(elpd))
    for _ in range(steps):
        share = weights[:, None] * density
        update = (share / share.sum(0)).mean(1)
        if np.abs(update - weights).max() < tolerance:
            return np.asarray(update)
        weights = update
    return weights


def read_pointwise(path: Path) -> Pointwise | None:
    """LOO of a saved fit, None when it has no `log_likelihood`.

    Raises:
        StudyError: the file is truncated, or no netCDF file (exit 2).
    """
    import numpy as np

    from evidentia.inference import diagnostics
    from evidentia.studies.harness.errors import StudyError

    try:
        idata = diagnostics.load(path)
        if "log_likelihood" not in idata.groups():
            return None
        site, values = next(iter(idata.log_likelihood.data_vars.items()))
        sample = [dim for dim in values.dims if dim not in ("chain", "draw")]
        score = diagnostics.loo(idata, obs=str(site), pointwise=True)
    except StudyError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} cannot be read as draws of ours: {error}") from None
    return Pointwise(
        np.asarray(score.loo_i, dtype=float).ravel(),
        np.asarray(score.pareto_k, dtype=float).ravel(),
        tuple(map(str, sample)),
        tuple(values.sizes[dim] for dim in sample),
        str(idata.log_likelihood.attrs.get("prior", "")).startswith("improper"),
    )
