"""The data sets that come with evidentia: diabetes and its quadratic expansion, tanh, digits, wine, iris."""

from itertools import combinations
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.data.dataset import Dataset, make_dataset, standardise

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TRAIN_ROWS = 342


def diabetes(split: int | None = None) -> Dataset:
    """Progression of diabetes after one year on ten baseline variables, 442 patients.

    All columns and the response are standardised on all rows (ddof 0).

    Args:
        split: None for all rows; a seed for a split as in :func:`diabetes_wide`.

    References:
        Efron, Hastie, Johnstone, Tibshirani, 2004, Least angle regression.

    Example:
        >>> diabetes().x.shape, diabetes().names[:3]
        (torch.Size([442, 10]), ('age', 'sex', 'bmi'))
    """
    x, y, names = _diabetes()
    return _split(x, y, names, split)


def diabetes_wide(split: int = 0) -> Dataset:
    """The diabetes data with all products: 10 main effects, 45 interactions, 9 squares, so 64 predictors.

    Products are formed from the standardised variables; sex² is left out, since sex has two values and its
    square is a linear function of it. All 64 columns and the response are standardised on all 442 rows.

    Args:
        split: seed of the split: ``RandomState(split).permutation(442)``, the first 342 rows train.

    References:
        Hoff, 2009, A first course in Bayesian statistical methods, chapter 9.

    Example:
        >>> data = diabetes_wide(split=0)
        >>> data.x.shape, data.test_x.shape, data.names[10], data.names[-1]
        (torch.Size([342, 64]), torch.Size([100, 64]), 'age:sex', 's6^2')
    """
    import numpy

    x, y, names = _diabetes()
    pairs = list(combinations(range(len(names)), 2))
    squares = [index for index, name in enumerate(names) if name != "sex"]
    columns = [x, *(x[:, [i]] * x[:, [j]] for i, j in pairs), *(x[:, [i]] ** 2 for i in squares)]
    wide = [*names, *(f"{names[i]}:{names[j]}" for i, j in pairs), *(f"{names[i]}^2" for i in squares)]
    return _split(standardise(numpy.hstack(columns), wide), y, wide, split)


def tanh() -> Dataset:
    """Fifty rows of ``y = tanh(x0) + 0.5 ε`` with ten useless inputs and a constant column.

    x0 is standardised (ddof 0), the ten others are not.

    Example:
        >>> data = tanh()
        >>> round(float(data.x[0, 0]), 10), round(float(data.y[0]), 10)
        (0.78134786, 0.6967745558)
    """
    import numpy

    state = numpy.random.RandomState(42)
    names = [*(f"x{index}" for index in range(11)), "one"]
    first = standardise(state.randn(50)[:, None], names)
    others = numpy.stack([state.randn(50) for _ in range(10)], axis=1)
    y = numpy.tanh(first[:, 0]) + 0.5 * state.randn(50)
    return make_dataset(
        numpy.hstack([first, others, numpy.ones((50, 1))]), y, names, info={"intercept": "one"}
    )


def digits(levels: int = 2, unit: float | None = None, rows: int | None = None) -> Dataset:
    """Handwritten digits, 8 by 8 pixels: 1,347 images to train, 150 to validate, 300 to test.

    There is no response: the pixels are what is modelled.

    Args:
        levels: 2 for pixels that are 0 or 1 (grey value at least 8); 17 for the grey values 0 ... 16.
        unit: subtract the mean of the training images and divide by this many grey values, for models of real
            numbers; None keeps the levels.
        rows: keep only the first rows of each part, for a quick look; None keeps all.

    References:
        Alpaydin and Kaynak, 1998, Optical recognition of handwritten digits (UCI repository).

    Example:
        >>> data = digits()
        >>> data.x.shape, data.validation_x.shape, data.test_x.shape
        (torch.Size([1347, 64]), torch.Size([150, 64]), torch.Size([300, 64]))
    """
    import numpy
    import torch
    from sklearn.datasets import load_digits

    if levels not in (2, 17):
        raise ValueError(f"levels: given {levels!r}, expected 2 (black and white) or 17 (the grey values)")
    if rows is not None and rows < 2:
        raise ValueError(f"rows: given {rows!r}, expected at least 2")
    grey = numpy.asarray(load_digits().data, dtype=float)
    pixels = (grey >= 8).astype(float) if levels == 2 else grey
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0)).numpy()
    parts = numpy.split(order, [1347, 1497])
    if unit is not None:
        if not 0 < unit < float("inf"):
            raise ValueError(f"unit: given {unit!r}, expected a positive number of grey values")
        pixels = (pixels - pixels[parts[0]].mean(0)) / unit
    train, validation, test = (pixels[part][:rows] for part in parts)
    names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    return make_dataset(train, None, names, test_x=test, info={"levels": levels}, validation_x=validation)


def wine() -> Dataset:
    """Thirteen chemical measurements of 178 Italian wines of three cultivars, as they are.

    There is no response; ``info["labels"]`` has the cultivar of each row.

    References:
        Forina, Leardi, Armanino, Lanteri, 1998, PARVUS: an extendable package of programs for data
        exploration.

    Example:
        >>> wine().x.shape, wine().info["labels"][:2]
        (torch.Size([178, 13]), (0, 0))
    """
    from sklearn.datasets import load_wine

    return _labelled(load_wine())


def iris() -> Dataset:
    """Four lengths in centimetres of 150 iris flowers of three species, as they are.

    There is no response; ``info["labels"]`` has the species of each row.

    References:
        Fisher, 1936, The use of multiple measurements in taxonomic problems.

    Example:
        >>> iris().x.shape
        torch.Size([150, 4])
    """
    from sklearn.datasets import load_iris

    return _labelled(load_iris())


def _labelled(bunch: Any) -> Dataset:
    labels = tuple(int(each) for each in bunch.target)
    return make_dataset(bunch.data, None, list(bunch.feature_names), info={"labels": labels})


def _diabetes() -> "tuple[NDArray[Any], NDArray[Any], list[str]]":
    import numpy
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    names = list(bunch.feature_names)
    x = standardise(numpy.asarray(bunch.data, dtype=float), names)
    y = standardise(numpy.asarray(bunch.target, dtype=float)[:, None], ["progression"])[:, 0]
    return x, y, names


def _split(x: "NDArray[Any]", y: "NDArray[Any]", names: list[str], split: int | None) -> Dataset:
    import numpy

    info = {"target": "progression", "split": split}
    if split is None:
        return make_dataset(x, y, names, info=info)
    if isinstance(split, bool) or not isinstance(split, int) or not 0 <= split < 2**32:
        raise ValueError(f"split: given {split!r}, expected a seed from 0 to 2**32 - 1")
    order = numpy.random.RandomState(split).permutation(len(y))
    train, test = order[:_TRAIN_ROWS], order[_TRAIN_ROWS:]
    return make_dataset(x[train], y[train], names, test_x=x[test], test_y=y[test], info=info)
