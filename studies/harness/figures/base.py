"""The look shared by all figures, deterministic saving, and the triangle of a three-way simplex.

Nothing global is touched: every figure is made inside `style()`, without pyplot, so no settings, backend or
open figure is left behind. The colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

__all__ = ["COLOURS", "plot_simplex", "save_figure", "style"]

INK, MUTED, FAINT, PAPER = "#1f2328", "#6b7280", "#d8dce1", "#ffffff"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
EDGE = 1e-3
"""Densities are drawn this far from the boundary, where those of relaxed laws may be infinite."""

STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "evidentia",
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for our figures, for the length of a block."""
    from matplotlib import style as sheets

    # "default" first: a user's own matplotlibrc would change the bytes.
    look: Any = ["default", dict(STYLE)]
    with sheets.context(look):
        yield


def new_figure(width: float, height: float, caption: str = "") -> Figure:
    """An empty figure in inches; call inside `style()`. The caption is kept as its label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_label(caption)
    return figure


def save_figure(figure: Figure, path: Path, caption: str | None = None) -> None:
    """Write a figure as PNG or SVG: the same figure gives the same bytes, at any time.

    The caption (the figure's label if none is given) is kept in the file, where the report finds it.

    Raises:
        ValueError: the suffix is neither .png nor .svg.
        StorageError: the disk refuses (exit 74).
    """
    from evidentia.studies.harness.storage import atomic

    words = caption if caption is not None else str(figure.get_label() or "")
    if path.suffix == ".png":
        # Software names matplotlib's version, Date the hour: both would change the bytes.
        options: dict[str, Any] = {"dpi": 160, "metadata": {"Software": None, "Description": words}}
    elif path.suffix == ".svg":
        options = {"metadata": {"Date": None, "Creator": None, "Description": words}}
    else:
        raise ValueError(f"save_figure: {path.name} ends in {path.suffix!r}; expected .png or .svg")
    with style():
        atomic.write_with(
            path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], **options)
        )


def plot_simplex(
    points: ArrayLike | None = None,
    labels: Sequence[str] = ("f0", "f1", "f2"),
    *,
    log_density: Callable[[NDArray[np.float64]], ArrayLike] | None = None,
    title: str = "",
    axes: Axes | None = None,
    color: str | None = None,
) -> Figure:
    """Draws and a density on the triangle of three-way mixtures.

    The first vertex is lower left, the second on top, the third lower right. Up to 500 draws are dots, more
    are a histogram of hexagons. A density is shown on a log scale, at least `EDGE` away from the boundary.

    Args:
        points: draws of γ, shape (n, 3), each row on the simplex.
        labels: names of the three vertices.
        log_density: log density of γ, from (m, 3) to (m,).
        title: shown above.
        axes: draw into these axes, for a grid of triangles.
        color: of the dots; grey on white, and one that stands out on a density, if none is given.

    Raises:
        ValueError: not three labels, or points that do not lie on the simplex.
    """
    import numpy as np

    if len(labels) != 3:
        raise ValueError(f"plot_simplex: a triangle has 3 vertices, got {len(labels)} labels")
    drawn = None if points is None else _on_simplex(np.asarray(points, dtype=float))
    with style():
        if axes is None:
            figure = new_figure(3.4, 3.3, f"Mixtures of {', '.join(labels)} on the simplex.")
            axes = figure.add_subplot()
        _triangle(axes, labels)
        if log_density is not None:
            _draw_density(axes, log_density)
        if drawn is not None:
            _draw_points(axes, drawn, color or (MUTED if log_density is None else COLOURS[1]))
        if title:
            # Plain and small: beside other triangles there is little room.
            axes.set_title(title, loc="center", fontsize=8.5, fontweight="normal")
        made = axes.get_figure(root=True)
    if made is None:
        raise ValueError("plot_simplex: the axes belong to no figure")
    return made


CORNERS = ((0.0, 0.0), (0.5, 0.75**0.5), (1.0, 0.0))


def _on_simplex(points: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"plot_simplex: points have shape {points.shape}, expected (n, 3)")
    off = ~((points >= -1e-6).all(1) & (np.abs(points.sum(1) - 1) < 1e-4))
    if off.any():
        row = int(off.argmax())
        raise ValueError(
            f"plot_simplex: {int(off.sum())} points are off the simplex, the first in row {row}: "
            f"{points[row].tolist()}; give γ itself (not log γ), with rows that sum to 1"
        )
    return points


def _triangle(axes: Axes, labels: Sequence[str]) -> None:
    from matplotlib.patches import Polygon

    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_xlim(-0.12, 1.12)
    axes.set_ylim(-0.12, 1.0)
    axes.add_patch(Polygon(CORNERS, closed=True, fill=False, edgecolor=MUTED, linewidth=0.9, zorder=3))
    for label, (x, y), side in zip(labels, CORNERS, ("left", "center", "right"), strict=True):
        up = y > 0
        position = (x + {"left": -0.04, "center": 0.0, "right": 0.04}[side], y + (0.03 if up else -0.03))
        axes.text(*position, label, ha=side, va="bottom" if up else "top")


def _draw_density(axes: Axes, log_density: Callable[[NDArray[np.float64]], ArrayLike]) -> None:
    import numpy as np
    from matplotlib.tri import Triangulation

    steps = 120
    grid = np.array([(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]) / steps
    inside = EDGE + (1 - 3 * EDGE) * grid
    values = np.asarray(log_density(inside), dtype=float).reshape(-1)
    if values.shape != (len(inside),):
        raise ValueError(
            f"plot_simplex: log_density gave {values.shape[0]} values for {len(inside)} points; "
            "it maps (m, 3) to (m,)"
        )
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("plot_simplex: log_density is finite nowhere inside the simplex")
    top = finite.max()
    # Eight nats below the top is white: a relaxed law spans hundreds.
    shown = np.clip(np.where(np.isfinite(values), values, -np.inf), top - 8.0, top)
    x, y = (grid @ np.array(CORNERS)).T
    axes.tricontourf(Triangulation(x, y), shown, levels=16, cmap="Blues", zorder=1)


def _draw_points(axes: Axes, points: NDArray[np.float64], color: str) -> None:
    import numpy as np

    x, y = (points @ np.array(CORNERS)).T
    if len(points) <= 500:
        axes.scatter(x, y, s=9, color=color, alpha=0.5, linewidths=0, zorder=2)
    else:
        axes.hexbin(x, y, gridsize=36, extent=(0, 1, 0, 0.87), mincnt=1, bins="log", cmap="Blues", zorder=2)
