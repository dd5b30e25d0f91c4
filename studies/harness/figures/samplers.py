"""Figures of samplers: effective draws per second, the cost of a chain, and draws that went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.figures.base import COLOURS, FAINT, INK, MUTED, new_figure, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["plot_chains", "plot_funnel", "plot_race"]

BINS = 20
"""Of the rank histograms."""


def plot_race(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Effective draws per cold second of each sampler, a panel for each posterior; hollow where flagged.

    Args:
        table: columns ``posterior``, ``sampler``, ``ess_per_second``, ``ess_per_warm_second``, ``passed``.
        labels: sampler -> name, in the order from top to bottom.
    """
    from matplotlib.lines import Line2D

    panels: Any = list(dict.fromkeys(table["posterior"]))
    words = [word for word in labels if (table["sampler"] == word).any()]
    with style():
        figure = new_figure(
            2.0 + 1.7 * len(panels),
            1.5 + 0.22 * len(words),
            "Least bulk effective sample size of any scalar, per CPU second of a cold start, compilation and "
            "warm-up included (large), and without the compilation (tick). Logarithmic. A hollow mark: the "
            "run failed a check, and its number is not to be believed.",
        )
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=True):
            part: Any = table[table["posterior"] == panel]
            for row in part.itertuples():
                place, colour = words.index(row.sampler), COLOURS[0] if row.passed else COLOURS[1]
                axes.plot(row.ess_per_warm_second, place, "|", color=colour, markersize=7)
                face = colour if row.passed else "white"
                axes.plot(row.ess_per_second, place, "o", color=colour, markerfacecolor=face, markersize=5.5)
            axes.set_xscale("log")
            axes.grid(True, axis="both", color=FAINT)
            axes.set_title(panel, fontsize=8.5)
        grid[0].set_yticks(range(len(words)), [labels[word] for word in words])
        grid[0].set_ylim(len(words) - 0.5, -0.5)
        for axes in grid:
            axes.set_xlabel("draws per second", fontsize=8)
        handles = [
            Line2D([], [], color=COLOURS[0], marker="o", linestyle="", label="passes every check"),
            Line2D(
                [], [], color=COLOURS[1], marker="o", markerfacecolor="white", linestyle="", label="flagged"
            ),
            Line2D([], [], color=INK, marker="|", linestyle="", label="without compilation"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def plot_chains(table: pd.DataFrame) -> Figure:
    """CPU time of one chain, and of one effective draw, against the number of chains.

    Args:
        table: columns ``chains``, ``warm_seconds``, ``ess``, ``passed``.
    """
    rows: Any = table.sort_values("chains")
    panels = (
        ("milliseconds for a chain", 1000 * rows["warm_seconds"] / rows["chains"]),
        ("milliseconds for an effective draw", 1000 * rows["warm_seconds"] / rows["ess"]),
    )
    with style():
        figure = new_figure(
            6.8,
            3.0,
            "Eight schools, HMC: CPU time, compilation left out, divided by the number of chains (left) and "
            "by the effective sample size (right). Both axes logarithmic; on the dotted line all "
            "chains together cost what one costs. Hollow: flagged.",
        )
        for axes, (label, value) in zip(figure.subplots(1, 2), panels, strict=True):
            axes.plot(rows["chains"], value, color=COLOURS[0])
            for flag, face in ((1, COLOURS[0]), (0, "white")):
                kept = rows["passed"] == flag
                axes.plot(rows["chains"][kept], value[kept], "o", color=COLOURS[0], markerfacecolor=face)
            shared = value.iloc[0] * rows["chains"].iloc[0] / rows["chains"]
            axes.plot(rows["chains"], shared, ":", color=MUTED)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.get_xaxis().set_major_formatter("{x:.0f}")
            axes.get_yaxis().set_major_formatter("{x:g}")
            axes.set_xlabel("chains")
            axes.set_ylabel(label)
        figure.suptitle("What a further chain costs", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def plot_funnel(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Paths and ranks of the log variance of the funnel, a row for each sampler.

    Args:
        tables: name -> columns ``chain``, ``draw``, ``value``, ``rank``.
    """
    import numpy as np

    with style():
        figure = new_figure(
            6.8,
            0.8 + 1.0 * len(tables),
            "Neal's funnel, centred. Left: v of four chains; its law is N(0, 3), grey to two standard "
            "deviations. Right: ranks of the draws of each chain among all, a line a chain; chains that mix "
            "have level lines at 1.",
        )
        grid = figure.subplots(len(tables), 2, squeeze=False, sharex="col", width_ratios=(2, 1))
        for (left, right), (name, table) in zip(grid, tables.items(), strict=True):
            left.axhspan(-6, 6, color=FAINT, alpha=0.5, linewidth=0)
            for index, (_, chain) in enumerate(table.groupby("chain")):
                if index < 4:
                    left.plot(chain["draw"], chain["value"], color=COLOURS[index], linewidth=0.7)
                count, edges = np.histogram(chain["rank"], BINS, (0, 1))
                right.stairs(count * BINS / len(chain), edges, color=COLOURS[index % 6], linewidth=0.6)
            right.axhline(1, color=INK, linewidth=0.8, linestyle=":")
            left.set_ylim(-10, 10)
            left.set_title(name, fontsize=8.5)
        grid[-1, 0].set_xlabel("draw")
        grid[-1, 1].set_xlabel("rank")
    return figure
