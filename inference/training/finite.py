"""What happens when the numbers fail: the error that names the culprit, and the search for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

__all__ = ["Culprit", "FitError", "all_finite", "locate", "non_finite_names"]


class Culprit(NamedTuple):
    """One site whose value or log density is not finite, with the affected rows of its data plate.

    References:
        none; bookkeeping.
    """

    site: str
    what: str
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        rows = f" (batch rows {', '.join(map(str, self.rows))})" if self.rows else ""
        return f"'{self.site}': {self.what}{rows}"


class FitError(ArithmeticError):
    """A fit whose loss or gradient stopped being finite.

    Attributes:
        step: the step that failed, counted from 0.
        sites: names of the sites with a non-finite value or log density, in program order.
        parameters: names of the parameters whose value or gradient has non-finite entries.
        last_finite_loss: the last finite loss in nats, or None.
        state: the flat state before the failing step; pass it to `fit(..., state=)`.

    References:
        none; bookkeeping.
    """

    def __init__(
        self,
        reason: str,
        *,
        step: int,
        culprits: Iterable[Culprit] = (),
        parameters: Iterable[str] = (),
        last_finite_loss: float | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        found = tuple(culprits)
        self.step = step
        self.culprits = found
        self.sites = tuple(culprit.site for culprit in found)
        self.parameters = tuple(parameters)
        self.last_finite_loss = last_finite_loss
        self.state = state
        last = "none" if last_finite_loss is None else f"{last_finite_loss:.6g} nats"
        lines = [
            f"step {step}: {reason}.",
            "Sites that are not finite: "
            + ("; ".join(map(str, found)) or "none (only the gradient is not)")
            + ".",
            "Parameters with non-finite values or gradients: " + (", ".join(self.parameters) or "none") + ".",
            f"Last finite loss: {last}.",
            "Fix: lower `learning_rate`, check the priors and the scale of the data, "
            "or choose nan='skip' or nan='backoff' knowingly.",
        ]
        super().__init__("\n".join(lines))


def all_finite(loss: float, gradients: Iterable[Tensor | None]) -> bool:
    """Whether the loss and every gradient are finite; infinite counts as failed, not only NaN.

    References:
        none; bookkeeping.

    Example:
        >>> all_finite(1.0, [torch.ones(2), None]), all_finite(1.0, [torch.tensor([1.0, float("inf")])])
        (True, False)
    """
    if not math.isfinite(loss):
        return False
    present = [gradient for gradient in gradients if gradient is not None and gradient.numel()]
    if not present:
        return True
    # A sum of finite numbers may overflow; only then is every entry looked at.
    kinds = {(gradient.dtype, gradient.device) for gradient in present}
    if len(kinds) == 1:
        total = torch.stack([gradient.detach().sum() for gradient in present]).sum()
        if bool(torch.isfinite(total)):
            return True
    return all(bool(torch.isfinite(gradient).all()) for gradient in present)


def non_finite_names(leaves: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the tensors with a non-finite entry in their value or their gradient.

    References:
        none; bookkeeping.

    Example:
        >>> non_finite_names({"a": torch.ones(2), "b": torch.tensor([float("nan")])})
        ('b',)
    """
    return tuple(
        name
        for name, leaf in leaves.items()
        if not bool(torch.isfinite(leaf).all())
        or (leaf.grad is not None and not bool(torch.isfinite(leaf.grad).all()))
    )


def locate(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Culprit, ...]:
    """Run guide and model once without gradients and return the sites that are not finite.

    The caller restores the random state first, so that the failing draw is the one looked at. A program that
    raises while it is replayed is reported as one culprit with the exception's text.

    Returns:
        The culprits in program order, guide before model.

    References:
        none; bookkeeping.
    """
    found: dict[str, Culprit] = {}
    try:
        with torch.no_grad(), pyro.validation_enabled(False):
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
            for trace in (guide_trace, model_trace):
                rows = _subsampled_rows(trace)
                for name, site in trace.nodes.items():
                    if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample" or name in found:
                        continue
                    culprit = _inspect(name, site, rows)
                    if culprit is not None:
                        found[name] = culprit
    except (ArithmeticError, RuntimeError, ValueError) as error:
        found.setdefault("(program)", Culprit("(program)", f"{type(error).__name__}: {error}"))
    return tuple(found.values())


def _subsampled_rows(trace: Any) -> dict[str, Tensor]:
    """The row indices that each subsampling plate chose."""
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and type(site["fn"]).__name__ == "_Subsample"
    }


def _inspect(name: str, site: Any, rows: Mapping[str, Tensor]) -> Culprit | None:
    """The culprit at one sample site, if its value or its log density is not finite."""
    value = site["value"]
    if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = ~torch.isfinite(value)
        event_dim = site["fn"].event_dim
        bad = bad.flatten(-event_dim).any(-1) if event_dim else bad
        return Culprit(name, "its value has non-finite entries", _affected(bad, site, rows))
    bad = ~torch.isfinite(site["fn"].log_prob(value, *site["args"], **site["kwargs"]))
    if not bool(bad.any()):
        return None
    return Culprit(
        name, f"{int(bad.sum())} of {bad.numel()} log densities are not finite", _affected(bad, site, rows)
    )


def _affected(bad: Tensor, site: Any, rows: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The first rows of the innermost plate that are marked as bad, in the whole data set if it is known."""
    for frame in site["cond_indep_stack"]:
        if not frame.vectorized or frame.dim is None or bad.dim() < -frame.dim:
            continue
        picked = bad.movedim(frame.dim, 0).reshape(bad.shape[frame.dim], -1).any(-1).nonzero().flatten()
        index = rows.get(frame.name)
        if index is not None and len(index) == bad.shape[frame.dim]:
            picked = index[picked]
        return tuple(int(row) for row in picked[:5])
    return ()
