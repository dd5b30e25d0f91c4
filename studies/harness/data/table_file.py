"""A user's own table as a data set: a CSV file with a header line, or an npz archive of plain arrays."""

import csv as csv_format
import math
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.data.dataset import MIN_ROWS, Dataset, check_rows, make_dataset, standardise
from evidentia.studies.harness.errors import StudyError, did_you_mean, shorten, shorten_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_BYTES = 64 * 2**20
_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")


def csv(
    path: str,
    target: str,
    columns: Sequence[str] | None = None,
    scale: bool = True,
    test_fraction: float = 0.0,
    split: int = 0,
) -> Dataset:
    """Read a table of numbers.

    Args:
        path: a ``.csv`` file (UTF-8, one header line) or an ``.npz`` archive (one array of shape ``(rows,)``
            per column, or ``(rows, k)`` for the columns ``name.0``, …, ``name.k-1``), at most ``MAX_BYTES``.
        target: the column to be explained.
        columns: the predictors; all other columns where None.
        scale: standardise all columns and the target on all rows (ddof 0).
        test_fraction: share of the rows that is held out, from 0 to below 1.
        split: seed of the permutation that chooses them.

    Raises:
        StudyError: the file cannot be read, is too large, has no rows, or a field is no number or
            missing; the message names file, line and column.
    """
    file = _checked_file(path)
    wanted = None if columns is None else {target, *columns}
    names, table, lines = _read_npz(file) if file.suffix.lower() == ".npz" else _read_csv(file, wanted)
    where = f"data file {shorten_path(file)}"
    chosen = list(columns) if columns is not None else [name for name in names if name != target]
    for name in (target, *chosen):
        if name not in names:
            raise StudyError(f"{where} has no column {shorten(name)}. {did_you_mean(str(name), names)}")
    if target in chosen or not chosen:
        raise StudyError(
            f"{where}: expected predictors besides the target {target!r}, given {shorten(chosen)}."
        )
    x, y = table[:, [names.index(name) for name in chosen]], table[:, names.index(target)]
    _check_finite(where, x, chosen, lines)
    _check_finite(where, y[:, None], [target], lines)
    check_rows(where, len(y), MIN_ROWS, "a spread cannot be estimated from fewer")
    if scale:
        x, y = standardise(x, chosen), standardise(y[:, None], [target])[:, 0]
    info = {"target": target, "path": str(file)}
    train, test = _fold(where, len(y), test_fraction, split)
    if not len(test):
        return make_dataset(x, y, chosen, info=info)
    return make_dataset(x[train], y[train], chosen, test_x=x[test], test_y=y[test], info=info)


def _check_finite(where: str, values: "NDArray[Any]", names: list[str], lines: list[int]) -> None:
    import numpy

    bad = numpy.argwhere(~numpy.isfinite(values))
    if len(bad):
        row, column = bad[0].tolist()
        raise StudyError(
            f"{where}: {len(bad)} missing or infinite value{'s' * (len(bad) > 1)}; the first is "
            f"{values[row, column]:g} in row {row + 1} (line {lines[row]}), column {names[column]!r}. "
            "Remove these rows or fill the values in."
        )


def _fold(where: str, rows: int, fraction: float, split: int) -> "tuple[NDArray[Any], NDArray[Any]]":
    import numpy

    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise StudyError(
            f"{where}: test_fraction is {shorten(fraction)}, expected a number from 0 to below 1."
        )
    if isinstance(split, bool) or not isinstance(split, int) or split < 0:
        raise StudyError(f"{where}: split is {shorten(split)}, expected a whole number, 0 or more.")
    held_out = round(rows * fraction)
    if fraction > 0 and not 0 < held_out < rows:
        raise StudyError(
            f"{where}: test_fraction {fraction} of {rows} rows leaves an empty fold; both need a row."
        )
    order = numpy.random.default_rng(split).permutation(rows) if held_out else numpy.arange(rows)
    return order[held_out:], order[:held_out]


def _checked_file(path: object) -> Path:
    if not isinstance(path, str) or not path:
        raise StudyError(f"data path: given {shorten(path)}, expected the path of a .csv or .npz file.")
    where = f"data file {shorten_path(path)}"
    file = Path(path)
    if file.suffix.lower() not in (".csv", ".npz"):
        raise StudyError(f"{where}: expected a .csv or an .npz file; no other format is read.")
    try:
        facts = file.stat()
    except FileNotFoundError:
        raise StudyError(f"{where}: there is no such file (looked in {Path.cwd()}).") from None
    except (OSError, ValueError) as error:
        raise StudyError(f"{where}: cannot be opened: {getattr(error, 'strerror', None) or error}.") from None
    if not stat.S_ISREG(facts.st_mode):
        raise StudyError(f"{where}: expected a file, this is a folder or a device.")
    if facts.st_size > MAX_BYTES:
        raise StudyError(f"{where}: {facts.st_size:,} bytes, at most {MAX_BYTES:,} are read.")
    if facts.st_size == 0:
        raise StudyError(f"{where}: the file is empty; expected a header line and at least two rows.")
    return file


def _read_csv(file: Path, wanted: set[str] | None) -> "tuple[list[str], NDArray[Any], list[int]]":
    import numpy

    where = f"data file {shorten_path(file)}"
    rows: list[list[float]] = []
    lines: list[int] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv_format.reader(stream, strict=True)
            names = [name.strip() for name in next(reader, [])]
            _check_header(where, names)
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(names):
                    raise StudyError(
                        f"{where}, line {reader.line_num}: {len(fields)} fields, the header has {len(names)}."
                    )
                line = f"{where}, line {reader.line_num}"
                lines.append(reader.line_num)
                rows.append(
                    [
                        _number(line, name, field) if wanted is None or name in wanted else 0.0
                        for name, field in zip(names, fields, strict=True)
                    ]
                )
    except UnicodeDecodeError:
        raise StudyError(f"{where}: the file is not UTF-8 text; save it as UTF-8 CSV.") from None
    except csv_format.Error as error:
        raise StudyError(f"{where}, line {reader.line_num}: not readable as CSV: {error}.") from None
    except OSError as error:
        raise StudyError(f"{where}: cannot be read: {error.strerror}.") from None
    if not rows:
        raise StudyError(f"{where}: a header but no rows; at least 2 rows are needed.")
    return names, numpy.array(rows), lines


def _check_header(where: str, names: list[str]) -> None:
    if not any(names):
        raise StudyError(f"{where}: the first line is empty; expected the names of the columns.")
    if "" in names:
        raise StudyError(f"{where}: column {names.index('') + 1} has no name in the header line.")
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise StudyError(f"{where}: two columns are called {shorten(twice)}; rename one.")
    if all(_is_number(name) for name in names):
        raise StudyError(f"{where}: the first line holds numbers; expected the names of the columns.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _number(where: str, name: str, field: str) -> float:
    text = field.strip()
    if text.lower() in _MISSING:
        return math.nan
    if not _is_number(text):
        raise StudyError(
            f"{where}, column {name!r}: {shorten(field)} is no number. Encode the column as numbers, or "
            "leave it out by naming the predictors in `columns`."
        )
    return float(text)


def _read_npz(file: Path) -> "tuple[list[str], NDArray[Any], list[int]]":
    import numpy

    where = f"data file {shorten_path(file)}"
    names: list[str] = []
    parts: list[NDArray[Any]] = []
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise StudyError(f"{where}: {size:,} bytes after unpacking, at most {MAX_BYTES:,} are read.")
        with numpy.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                array = numpy.asarray(arrays[name])  # a member that is no array comes as its bytes
                if array.dtype.kind not in "iufb" or array.ndim not in (1, 2):
                    raise StudyError(
                        f"{where}: array {shorten(name)} has type {array.dtype} and shape {array.shape}; "
                        "expected numbers of shape (rows,) or (rows, k)."
                    )
                names += [name] if array.ndim == 1 else [f"{name}.{index}" for index in range(array.shape[1])]
                parts.append((array[:, None] if array.ndim == 1 else array).astype(float))
    except StudyError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise StudyError(f"{where}: not a readable npz archive of plain numbers: {error}") from None
    lengths = sorted({len(part) for part in parts})
    if len(lengths) != 1 or lengths[0] == 0:
        raise StudyError(f"{where}: arrays of {lengths} rows; expected one length, at least 2.")
    _check_header(where, names)
    return names, numpy.hstack(parts), list(range(1, lengths[0] + 1))
