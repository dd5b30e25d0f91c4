"""Figures of evidence estimators: errors with their bars, errors against the dimension and the cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.figures.base import COLOURS, FAINT, INK, MUTED, new_figure, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["plot_cost", "plot_dimension", "plot_errors"]

LINEAR = 0.01
"""Nats around zero within which the axis of errors is linear."""
CALM, WARNED, SILENT = COLOURS[0], COLOURS[4], COLOURS[1]


def plot_errors(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """The error of every estimate with two standard errors, a panel for each posterior.

    Args:
        table: columns ``posterior``, ``method``, ``error``, ``standard_error``, ``warned``, ``refused``,
            ``silent``, ``loose``.
        labels: method -> name, in the order from top to bottom.
    """
    from matplotlib.lines import Line2D

    panels: Any = list(dict.fromkeys(table["posterior"]))
    words = [word for word in labels if (table["method"] == word).any()]
    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    with style():
        figure = new_figure(
            2.0 + 2.1 * columns,
            0.9 + (0.6 + 0.17 * len(words)) * lines,
            "Estimate less truth in nats, one dot a repeat, with two reported standard errors; linear within "
            f"{LINEAR:g} nats, logarithmic beyond. The grey band is one nat. Where no bar is drawn it is "
            "smaller than the dot, or the estimator reported none. A cross on the right: refused.",
        )
        grid = figure.subplots(lines, columns, sharey=True, sharex=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            part = table[table["posterior"] == panel]
            axes.axvspan(-1, 1, color=FAINT, alpha=0.5, linewidth=0)
            axes.axvline(0, color=MUTED, linewidth=0.8)
            for place, word in enumerate(words):
                _dots(axes, part[part["method"] == word], place)
            axes.set_xscale("symlog", linthresh=LINEAR, linscale=0.6)
            axes.set_xticks([-100, -1, 0, 1, 100], ["-100", "-1", "0", "1", "100"])
            axes.set_xlim(-300, 300)
            axes.set_title(panel, fontsize=8.5)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        grid[0, 0].set_yticks(range(len(words)), [labels[word] for word in words])
        grid[0, 0].set_ylim(len(words) - 0.4, -0.6)
        for axes in grid[-1]:
            axes.set_xlabel("error, nats")
        handles = [
            Line2D([], [], color=CALM, marker="o", linestyle="", label="no warning, within a nat"),
            Line2D([], [], color=WARNED, marker="s", linestyle="", label="warned"),
            Line2D([], [], color=SILENT, marker="D", linestyle="", label="more than a nat off, no warning"),
            Line2D(
                [],
                [],
                color=SILENT,
                marker="D",
                markerfacecolor="white",
                linestyle="",
                label="a bound more than a nat away, no warning",
            ),
            Line2D([], [], color=INK, marker="x", linestyle="", label="refused"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _dots(axes: Any, rows: Any, place: int) -> None:
    """The repeats of one estimator on one posterior, one above the other."""
    for index, row in enumerate(rows.itertuples()):
        height = place + 0.22 * (index - (len(rows) - 1) / 2)
        if row.refused:
            axes.plot(200, height, "x", color=INK, markersize=3.5)
            continue
        far = bool(row.silent or row.loose)
        colour, marker = (SILENT, "D") if far else (WARNED, "s") if row.warned else (CALM, "o")
        bar = 2 * row.standard_error if row.standard_error == row.standard_error else 0.0
        axes.errorbar(
            row.error, height, xerr=bar, fmt=marker, color=colour, markersize=3, elinewidth=0.9,
            markerfacecolor="white" if row.loose else colour, markeredgewidth=0.8,
        )  # fmt: skip


def plot_dimension(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Root mean squared error of each estimator against the dimension; crosses where it warned each time.

    Args:
        table: columns ``method``, ``dim``, ``error`` and ``warned``.
        labels: method -> name, in the order of the legend.
    """
    words = [word for word in labels if (table["method"] == word).any()]
    with style():
        figure = new_figure(
            6.8,
            4.0,
            "Root of the mean squared error over the repeats, against the number of coordinates of a "
            "regression with unknown noise; both axes logarithmic. A hollow mark: the estimator warned in "
            "every repeat. The dotted line is one nat.",
        )
        axes = figure.add_subplot()
        axes.axhline(1.0, color=MUTED, linestyle=":", linewidth=1)
        for index, word in enumerate(words):
            rows = table[table["method"] == word].dropna(subset=["error"])
            groups: Any = rows.groupby("dim")
            size = groups["error"].apply(lambda error: (error**2).mean() ** 0.5)
            warned = groups["warned"].min()
            colour = COLOURS[index % len(COLOURS)]
            mark = MARKS[index // len(COLOURS)]
            axes.plot(size.index, size, LINES[index // len(COLOURS)], color=colour, label=labels[word])
            for hollow in (0, 1):
                part = size[warned == hollow]
                face = "white" if hollow else colour
                axes.plot(part.index, part, mark, color=colour, markerfacecolor=face, markersize=4.5)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        sizes = sorted(set(table["dim"]))
        axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        axes.get_yaxis().set_major_formatter("{x:g}")
        axes.set_xlabel("dimension")
        axes.set_ylabel("root mean squared error, nats")
        axes.set_title("Error against dimension")
        figure.legend(loc="outside right upper")
    return figure


MARKS, LINES = ("o", "s", "^"), ("-", "--", ":")


def plot_cost(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Median absolute error against median cost of each estimator, over the posteriors, with both ranges.

    Args:
        table: columns ``method``, ``posterior``, ``error``, ``cpu_seconds``.
        labels: method -> name, in the order of the legend.
    """
    words = [word for word in labels if table.loc[table["method"] == word, "error"].notna().any()]
    with style():
        figure = new_figure(
            6.8,
            4.2,
            "A small dot is one estimator on one posterior: root mean squared error and mean CPU seconds "
            "over the repeats, the draws that it needs included; errors below 0.0001 are drawn there. "
            "A large mark is the median over the posteriors. The dotted line is one nat.",
        )
        axes = figure.add_subplot()
        axes.axhline(1.0, color=MUTED, linestyle=":", linewidth=1)
        for index, word in enumerate(words):
            rows = table[table["method"] == word].dropna(subset=["error"])
            groups: Any = rows.groupby("posterior")
            error = groups["error"].apply(lambda each: (each**2).mean() ** 0.5).clip(lower=1e-4)
            seconds = groups["cpu_seconds"].mean()
            colour, mark = COLOURS[index % len(COLOURS)], MARKS[index // len(COLOURS)]
            axes.plot(seconds, error, mark, color=colour, markersize=2.5, alpha=0.4, markeredgewidth=0)
            axes.plot(
                seconds.median(), error.median(), mark, color=colour, markersize=8, label=labels[word],
                markeredgecolor="white", markeredgewidth=0.6, linestyle="",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.get_xaxis().set_major_formatter("{x:g}")
        axes.get_yaxis().set_major_formatter("{x:g}")
        axes.set_xlabel("CPU seconds")
        axes.set_ylabel("root mean squared error, nats")
        axes.set_title("What accuracy costs")
        figure.legend(loc="outside right upper")
    return figure
