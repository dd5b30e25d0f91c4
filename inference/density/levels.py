"""Which way of evaluating many chains a model allows, and the check that decides it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from evidentia.inference.density.batch import Batched, looped, mapped, plated
from evidentia.inference.density.executor import Executor
from evidentia.inference.density.joint import Joint
from evidentia.inference.density.program import Program
from evidentia.inference.density.recorder import RecordError

__all__ = ["LEVELS", "Chosen", "Level", "choose", "disagreement"]

Level: TypeAlias = Literal["fx-vmap", "vmap", "plate", "loop"]
LEVELS: tuple[Level, ...] = ("fx-vmap", "vmap", "plate", "loop")
_ROWS = 4
_RADII = (2.0, 2.0, 1.0, 1.0, 0.5, 0.1, 0.01)
_RANDOM = ("random operation", "randomness")


class Chosen(NamedTuple):
    """The level that passed its check.

    Attributes:
        level: which one.
        batched: it, eagerly.
        program: it, recorded; None at the lower levels.
        takes_data: whether data are inputs of the recording.
        notices: why the levels above were left.

    References:
        none; bookkeeping.
    """

    level: Level
    batched: Batched
    program: Program | None
    takes_data: bool
    notices: tuple[str, ...]


def disagreement(
    got: Sequence[Tensor], expected: Sequence[Tensor], rows: int, dtype: torch.dtype
) -> str | None:
    """What differs between two evaluations, or None.

    A difference may be the type's rounding error to the power 0.45, relative to the largest entry of a row
    or to one. Where the expected value is not finite, the other must not be finite either.

    References:
        none; bookkeeping.

    Example:
        >>> one = (torch.ones(2), torch.ones(2, 1), torch.zeros(2))
        >>> disagreement(one, (torch.ones(2), 2 * torch.ones(2, 1), torch.zeros(2)), 2, torch.float64)
        'gradient: 1 in place of 2'
    """
    tolerance = torch.finfo(dtype).eps ** 0.45
    for what, one, two in zip(("log density", "gradient", "log likelihood"), got, expected, strict=True):
        one, two = one[:rows].reshape(rows, -1), two[:rows].reshape(rows, -1)
        # Where the density is minus infinity the gradient means nothing.
        finite = two.isfinite().all(-1) & expected[0][:rows].isfinite()
        if what != "gradient" and not torch.equal(one.isfinite().all(-1), two.isfinite().all(-1)):
            return f"{what}: not finite at other points"
        scale = two.abs().amax(-1, keepdim=True).clamp(min=1.0)
        wrong = ((one - two).abs() > tolerance * scale) | one.isnan()
        wrong = wrong & finite[:, None]
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            return f"{what}: {float(one[row, column]):.6g} in place of {float(two[row, column]):.6g}"
    return None


def choose(
    joint: Joint,
    rebuild: Callable[[list[Tensor]], Any],
    data: Sequence[Tensor],
    chains: Sequence[Tensor],
    draw: Callable[[float], list[Tensor]],
    executor: Executor,
    first: Level = "fx-vmap",
    data_dims: Sequence[int | None] | None = None,
) -> Chosen:
    """Step down the levels until one agrees with plain runs of the model at random points.

    Args:
        joint: one chain's density.
        rebuild: tensors of data -> (args, kwargs).
        data: the data.
        chains: example inputs for the recording (position, beta, given ...).
        draw: radius -> other inputs (n C of them, at least 3), for the check.
        executor: how graphs are run.
        first: where to begin.
        data_dims: 0 for data with one set per chain; shared without it.

    Raises:
        ValueError: a random operation is left in the model, or the density is finite nowhere.

    References:
        none; bookkeeping.
    """
    dims = list(data_dims) if data_dims is not None else [None] * len(data)
    plain = looped(joint, rebuild, dims)
    checks, expected = _finite_points(plain, draw, data, dims, joint)
    rows = len(expected[0])
    if not bool(expected[0].isfinite().any()):
        raise ValueError(
            f"{_blame(joint, checks, data, rebuild, dims)}: the log density is not finite at any random "
            "start. Fix: check data against the supports (values outside, NaN), and the scales of priors"
        )
    notices: list[str] = []
    for level in LEVELS[LEVELS.index(first) :]:
        for takes_data in (True, False):
            if not takes_data and (level != "fx-vmap" or not data or data_dims is not None):
                continue
            try:
                chosen = _attempt(level, joint, rebuild, data, dims, chains, executor, takes_data)
                wrong = disagreement(_run(chosen, checks, data, len(chains[0])), expected, rows, joint.dtype)
            except Exception as error:
                _refuse_random(error, joint)
                text = str(error).strip().split("\n")[0][:200]
                kept = "" if takes_data else " (with data as constants)"
                notices.append(f"{level}{kept}: {joint.last}: {type(error).__name__}: {text}")
                if level != "fx-vmap" or not isinstance(error, RecordError):
                    break
                continue
            if wrong is None:
                return _warned(chosen._replace(notices=(*notices, *chosen.notices)), first)
            notices.append(f"{level}: {joint.last}: {wrong}")
            break
    return _warned(Chosen("loop", plain, None, True, tuple(notices)), first)


def _attempt(
    level: Level,
    joint: Joint,
    rebuild: Callable[[list[Tensor]], Any],
    data: Sequence[Tensor],
    dims: Sequence[int | None],
    chains: Sequence[Tensor],
    executor: Executor,
    takes_data: bool,
) -> Chosen:
    if level == "loop":
        return Chosen(level, looped(joint, rebuild, dims), None, True, ())
    if level == "plate":
        if any(dim is not None for dim in dims):
            raise NotImplementedError("one data set per chain under an outer plate: not supported")
        return Chosen(level, plated(joint, rebuild), None, True, ())
    if takes_data:
        batched = mapped(joint, rebuild, dims)
    else:
        inner = mapped(joint, lambda _: rebuild(list(data)), ())

        def batched(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return inner(*tensors[: len(chains)])

    if level == "vmap":
        return Chosen(level, batched, None, True, ())
    own = list(data) if takes_data else []
    return Chosen(level, batched, Program(batched, chains, own, executor), takes_data, ())


def _finite_points(
    plain: Batched,
    draw: Callable[[float], list[Tensor]],
    data: Sequence[Tensor],
    dims: Sequence[int | None],
    joint: Joint,
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Inputs for the check, with what plain runs give there; closer to the origin until most are finite."""
    best: tuple[int, list[Tensor], tuple[Tensor, ...]] | None = None
    for radius in _RADII:
        checks = draw(radius)
        rows = min(_ROWS, len(checks[0]))
        few = [tensor if dim is None else tensor[:rows] for tensor, dim in zip(data, dims, strict=True)]
        try:
            found = plain(*(tensor[:rows] for tensor in checks), *few)
        except NotImplementedError as error:
            raise ValueError(f"{joint.last}: {error}. Fix: use a distribution with a log density") from error
        number = int(found[0].isfinite().sum())
        if best is None or number > best[0]:
            best = number, checks, found
        if number >= min(3, rows):
            break
    if best is None:
        raise RuntimeError("no radius to draw from")
    return best[1], best[2]


def _run(chosen: Chosen, chains: Sequence[Tensor], data: Sequence[Tensor], size: int) -> tuple[Tensor, ...]:
    if chosen.program is None:
        return chosen.batched(*chains, *data)
    fixed = chosen.program.bind(data if chosen.takes_data else [])
    parts = zip(*(tensor.split(size) for tensor in chains), strict=True)
    columns = zip(*(chosen.program.evaluate(fixed, part) for part in parts), strict=True)
    return tuple(torch.cat(column) for column in columns)


def _refuse_random(error: Exception, joint: Joint) -> None:
    if any(word in str(error) for word in _RANDOM):
        raise ValueError(
            f"{joint.last}: a random operation is left in the model, so its density is noisy. Fix: make it a "
            "sample site, or switch it off (dropout: module.eval())"
        ) from error


def _blame(
    joint: Joint,
    some: Sequence[Tensor],
    few: Sequence[Tensor],
    rebuild: Callable[[list[Tensor]], Any],
    dims: Sequence[int | None],
) -> str:
    """The first site whose log probability is not finite."""
    args, kwargs = rebuild([each if dim is None else each[0] for each, dim in zip(few, dims, strict=True)])
    values = joint.values(some[0][0], tuple(tensor[0] for tensor in some[2:]))
    try:
        for name, value in joint.site_log_probs(joint.trace(values, args, kwargs)):
            if not bool(torch.as_tensor(value).isfinite().all()):
                return f"site {name!r}"
    except (RuntimeError, ValueError):
        pass  # the run itself failed: the last site it reached is the one to name
    return joint.last


def _warned(chosen: Chosen, first: Level) -> Chosen:
    if chosen.level != first and chosen.notices:
        warnings.warn(
            f"compile_density: level {chosen.level!r} in place of {first!r}, which is slower. "
            + "; ".join(chosen.notices)
            + ". Fix: write the model without values read out of latents (torch.where in place of `if`)",
            UserWarning,
            stacklevel=4,
        )
    return chosen
