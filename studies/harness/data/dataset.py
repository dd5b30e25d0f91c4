"""Data sets: what a loader returns, and the checks that run before any folder is created."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from evidentia.studies.harness.declare.points import Ref
from evidentia.studies.harness.declare.registry import datasets
from evidentia.studies.harness.errors import StudyError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MIN_ROWS = 2
_SAME = 1e-10


class Dataset(NamedTuple):
    """A data set in memory.

    Attributes:
        x: inputs, ``(rows, columns)``, float64.
        y: responses, ``(rows,)``, float64; None where the inputs are what is modelled.
        names: one name per column.
        sha256: digest of names, shapes and bytes.
        test_x: held-out inputs, or None.
        test_y: held-out responses, or None.
        info: further facts (``target``, ``intercept``: a column that is constant on purpose, …).
        validation_x: inputs that only watch a training, or None.
    """

    x: "Tensor"
    y: "Tensor | None"
    names: tuple[str, ...]
    sha256: str
    test_x: "Tensor | None" = None
    test_y: "Tensor | None" = None
    info: Mapping[str, Any] = MappingProxyType({})
    validation_x: "Tensor | None" = None


def make_dataset(
    x: "NDArray[Any]",
    y: "NDArray[Any] | None",
    names: Sequence[str],
    *,
    test_x: "NDArray[Any] | None" = None,
    test_y: "NDArray[Any] | None" = None,
    info: Mapping[str, Any] | None = None,
    validation_x: "NDArray[Any] | None" = None,
) -> Dataset:
    """Build a :class:`Dataset` from arrays: float64 tensors and the digest of the content.

    Example:
        >>> import numpy
        >>> data = make_dataset(numpy.eye(3), numpy.arange(3.0), ["a", "b", "c"])
        >>> data.x.dtype, data.sha256[:8]
        (torch.float64, '...')
    """
    import numpy
    import torch

    parts = [x, y, test_x, test_y, *([] if validation_x is None else [validation_x])]
    arrays = [None if part is None else numpy.array(part, dtype="<f8", order="C") for part in parts]
    shapes = [None if array is None else array.shape for array in arrays]
    hasher = hashlib.sha256(json.dumps([list(names), shapes]).encode())
    for array in arrays:
        hasher.update(b"" if array is None else array.tobytes())
    first, *others = (None if array is None else torch.from_numpy(array) for array in arrays)
    if first is None:
        raise ValueError("x: nothing given, expected an array (rows, columns)")
    return Dataset(
        x=first,
        y=others[0],
        names=tuple(names),
        sha256=hasher.hexdigest(),
        test_x=others[1],
        test_y=others[2],
        info=MappingProxyType(dict(info or {})),
        validation_x=None if validation_x is None else others[3],
    )


def load_dataset(ref: Ref, batch_size: int | None = None) -> Dataset:
    """Load the data a Ref names and check it.

    Args:
        ref: a key of the registry ``datasets`` with its parameters.
        batch_size: rows of a mini-batch, where the inference uses them.

    Raises:
        StudyError: unknown key or parameter, or the data cannot be used; see :func:`validate_dataset`.
    """
    loader = datasets.check(ref, "data")
    try:
        data = loader(**ref.params)
    except StudyError:
        raise
    except (TypeError, ValueError) as error:
        raise StudyError(f"data {ref.label}: {error}") from error
    return validate_dataset(data, where=f"data {ref.label}", batch_size=batch_size)


def validate_dataset(data: Dataset, *, where: str = "data", batch_size: int | None = None) -> Dataset:
    """Check that a data set can be used; return it unchanged.

    Args:
        data: what a loader returned.
        where: what the messages call it.
        batch_size: rows of a mini-batch, or None.

    Raises:
        StudyError: shapes disagree, too few rows, a missing or infinite number (count, first row and column),
            or, where there is a response to explain, a constant column that is not ``info["intercept"]`` or
            two columns that are equal up to scale.
    """
    parts = (
        ("", data.x, data.y),
        ("test ", data.test_x, data.test_y),
        ("validation ", data.validation_x, None),
    )
    for part, x, y in parts:
        if x is not None:
            _check_shape(f"{where}: {part}", x, y, data.names)
            _check_finite(f"{where}: {part}", x, data.names)
        if y is not None:
            _check_finite(f"{where}: {part}", y[:, None], (str(data.info.get("target", "y")),))
    rows = data.x.shape[0]
    check_rows(where, rows, MIN_ROWS, "a spread cannot be estimated from fewer")
    if batch_size is not None:
        check_rows(where, rows, batch_size, f"a mini-batch has {batch_size}; lower the batch size")
    if data.test_x is not None:
        check_rows(f"{where}: test fold", data.test_x.shape[0], 1, "an empty fold has no error to report")
    if data.y is not None:
        _check_columns(where, data)
    return data


def check_rows(where: str, rows: int, minimum: int, why: str) -> None:
    """Refuse too few rows.

    Raises:
        StudyError: with the minimum and the reason for it.

    Example:
        >>> check_rows("data", 1, 2, "a spread cannot be estimated from fewer")
        Traceback (most recent call last):
        evidentia.studies.harness.errors.StudyError: data: 1 row, at least 2 needed: a spread ...
    """
    if rows < minimum:
        raise StudyError(f"{where}: {rows} row{'s' * (rows != 1)}, at least {minimum} needed: {why}.")


def _check_shape(where: str, x: "Tensor", y: "Tensor | None", names: tuple[str, ...]) -> None:
    if x.ndim != 2 or x.shape[1] != len(names) or x.shape[1] == 0:
        raise StudyError(
            f"{where}x has shape {tuple(x.shape)}, expected (rows, {len(names)}), a column per name."
        )
    if y is not None and y.shape != x.shape[:1]:
        raise StudyError(
            f"{where}y has shape {tuple(y.shape)}, expected ({x.shape[0]},), a value per row of x."
        )
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise StudyError(f"{where}two columns are called {twice!r}; rename one.")


def _check_finite(where: str, values: "Tensor", names: tuple[str, ...]) -> None:
    bad = ~values.isfinite()
    if count := int(bad.sum()):
        row, column = (int(index) for index in bad.nonzero()[0])
        raise StudyError(
            f"{where}{count} value{'s are' if count > 1 else ' is'} missing or infinite; the first is "
            f"{float(values[row, column])} in row {row + 1}, column {names[column]!r}. "
            "Remove these rows or fill the values in."
        )


def _check_columns(where: str, data: Dataset) -> None:
    """Constant and repeated columns make the structure unidentifiable."""
    centred = data.x - data.x.mean(0)
    norm = centred.norm(dim=0)
    size = data.x.norm(dim=0).clamp_min(1.0)
    constant = norm <= _SAME * size
    intercept = data.info.get("intercept")
    for index in constant.nonzero().flatten().tolist():
        if data.names[index] != intercept:
            raise StudyError(
                f"{where}: column {data.names[index]!r} is constant ({float(data.x[0, index]):g}); "
                "the data say nothing about it. Leave it out, or name it as the intercept."
            )
    target = data.y
    if target is not None and (target - target.mean()).norm() <= _SAME * target.norm().clamp_min(1.0):
        raise StudyError(
            f"{where}: the target is constant ({float(target[0]):g}); there is nothing to explain."
        )
    unit = centred / norm.clamp_min(1e-300)
    same = ((unit.T @ unit).abs() >= 1 - _SAME).triu(1)
    same[constant], same[:, constant] = False, False
    if same.any():
        first, second = (data.names[int(index)] for index in same.nonzero()[0])
        raise StudyError(
            f"{where}: columns {first!r} and {second!r} are equal up to shift and scale, so no data can tell "
            "them apart. Leave one of them out."
        )


def standardise(values: "NDArray[Any]", names: Sequence[str]) -> "NDArray[Any]":
    """Centre each column and divide it by its standard deviation (ddof 0).

    Args:
        values: ``(rows, columns)``.
        names: one name per column, for the message.

    Raises:
        StudyError: a column is constant.

    Example:
        >>> import numpy
        >>> standardise(numpy.array([[1.0], [3.0]]), ["a"]).tolist()
        [[-1.0], [1.0]]
    """
    import numpy

    centred = values - values.mean(0)
    scale = centred.std(0)
    for index in map(int, numpy.flatnonzero(scale <= _SAME * numpy.maximum(1.0, numpy.abs(values).max(0)))):
        raise StudyError(f"column {names[index]!r} is constant and cannot be standardised. Leave it out.")
    return centred / scale
