"""Figures of calibration: ECDF differences with their band, and coverage against its nominal value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evidentia.studies.harness.figures.base import COLOURS, FAINT, INK, MUTED, new_figure, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["plot_coverage", "plot_ecdf_differences"]

TESTED = {"log_likelihood": (COLOURS[1], "log likelihood"), "log_prior": (COLOURS[2], "log prior")}


def plot_ecdf_differences(curves: Mapping[str, pd.DataFrame], *, columns: int = 4) -> Figure:
    """One panel for each method: the distribution of ranks minus the uniform one, and the 95 % band.

    Args:
        curves: title -> table with columns ``place``, ``lower``, ``upper`` and one for each quantity.
        columns: panels beside each other.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = -(-len(curves) // columns)
    with style():
        figure = new_figure(
            2.25 * columns,
            1.85 * rows + 0.6,
            "Distribution function of the ranks of the true values, minus the uniform one, for every scalar "
            "parameter (blue) and two test quantities. Grey: 95 % of curves of uniform ranks lie inside it "
            "everywhere, for one quantity at a time. An arch above zero: the posterior is too high; below: "
            "too low; above and then below: too narrow.",
        )
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes in grid.flat[len(curves) :]:
            axes.set_axis_off()
        for axes, (title, table) in zip(grid.flat, curves.items(), strict=False):
            axes.fill_between(table["place"], table["lower"], table["upper"], color=FAINT, linewidth=0)
            axes.axhline(0.0, color=MUTED, linewidth=0.6)
            for name in table.columns[3:]:
                color = TESTED[name][0] if name in TESTED else COLOURS[0]
                width = 1.5 if name in TESTED else 0.7
                axes.plot(table["place"], table[name], color=color, linewidth=width)
            largest = float(table[table.columns[1:]].abs().max().max())
            axes.set_ylim(-1.15 * max(largest, 0.13), 1.15 * max(largest, 0.13))
            axes.set_title(title, fontsize=7.5)
            axes.tick_params(labelsize=7)
        figure.supylabel("ECDF difference against rank / (L + 1)", fontsize=9, color=INK)
        handles = [Line2D([], [], color=COLOURS[0], linewidth=0.9, label="parameters")]
        handles += [Line2D([], [], color=color, label=label) for color, label in TESTED.values()]
        figure.legend(
            handles=[*handles, Patch(color=FAINT, label="95 % band")], loc="outside lower center", ncols=4
        )
    return figure


def plot_coverage(intervals: Mapping[str, pd.DataFrame]) -> Figure:
    """Coverage minus its nominal value, mean over the parameters, one curve for each method.

    Args:
        intervals: label -> table with columns ``nominal``, ``observed``, ``lower`` and ``upper``.
    """
    with style():
        figure = new_figure(
            7.2,
            3.6,
            "How much more often than nominal a central interval holds the true value, mean over parameters. "
            "Below zero: intervals are too short. Grey: 95 % band of a single parameter, for one level at a "
            "time; means over parameters vary less.",
        )
        axes = figure.add_subplot()
        first = next(iter(intervals.values()))
        axes.fill_between(
            first["nominal"],
            first["lower"] - first["nominal"],
            first["upper"] - first["nominal"],
            color=FAINT,
            linewidth=0,
        )
        axes.axhline(0.0, color=MUTED, linewidth=0.6)
        for index, (label, table) in enumerate(intervals.items()):
            axes.plot(
                table["nominal"],
                table["observed"] - table["nominal"],
                ("-", "--", ":")[index // len(COLOURS) % 3],
                color=COLOURS[index % len(COLOURS)],
                label=label,
            )
        axes.set_xlabel("probability of the interval")
        axes.set_ylabel("observed - nominal coverage")
        axes.set_title("Do intervals hold the truth as often as they say?")
        figure.legend(loc="outside right upper", fontsize=8)
    return figure
