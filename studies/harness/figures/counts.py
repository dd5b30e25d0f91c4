"""Figures of how many latents: held-out scores by size, and clusters in a plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evidentia.studies.harness.figures.base import COLOURS, INK, new_figure, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["plot_clusters", "plot_scores"]


def plot_scores(rows: pd.DataFrame, panels: Mapping[str, Mapping[str, str]], *, title: str) -> Figure:
    """Held-out log density against the number of latents.

    Args:
        rows: columns `family`, `size`, `held_out`, `held_out_se`, `best_size`, `bic_size`.
        panels: label of a horizontal axis -> family -> its name in the legend.
        title: of the first panel.
    """
    with style():
        figure = new_figure(
            7.2,
            3.5,
            "Exact log density of a row that the fit has not seen, in standardised units; larger is better. "
            "Band: one standard error over the folds, which all sizes share, so that it says little about "
            "the difference of two sizes. Filled: the best size. Square: the choice of BIC.",
        )
        columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        colour = iter(COLOURS)
        for axes, (label, families) in zip(columns, panels.items(), strict=True):
            for family, name in families.items():
                part, shade = rows[rows["family"] == family].sort_values("size"), next(colour)
                if part.empty:
                    continue
                size, mean, error = part["size"], part["held_out"], part["held_out_se"]
                axes.fill_between(size, mean - error, mean + error, color=shade, alpha=0.15, linewidth=0)
                axes.plot(size, mean, "o-", color=shade, mfc="white", label=name)
                best, bic = part[size == part["best_size"]], part[size == part["bic_size"]]
                axes.plot(best["size"], best["held_out"], "o", color=shade)
                axes.plot(bic["size"], bic["held_out"], "s", color=shade, mfc="none", markersize=11)
            axes.locator_params(axis="x", integer=True)
            axes.set_xlabel(label)
        columns[0].set_ylabel("nats for one row")
        columns[0].set_title(title)
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def plot_clusters(table: pd.DataFrame, size: int) -> Figure:
    """The wines in the plane of the first two factors: colour by responsibility, marker by cultivar."""
    import numpy
    from matplotlib.colors import to_rgb

    shares = table[[f"component_{index}" for index in range(size)]].to_numpy()
    colours = numpy.clip(shares @ numpy.array([to_rgb(COLOURS[index]) for index in range(size)]), 0, 1)
    with style():
        figure = new_figure(
            6.0,
            4.4,
            "Posterior means of the two factors of probabilistic PCA. Colour: responsibilities of a mixture "
            "with diagonal covariances in all thirteen columns, blended. Marker: the cultivar, which no fit "
            "has seen.",
        )
        axes = figure.add_subplot()
        for label, marker in enumerate("osD"):
            chosen = (table["label"] == label).to_numpy()
            axes.scatter(
                table["first"][chosen], table["second"][chosen], c=colours[chosen], marker=marker,
                s=26, edgecolors=INK, linewidths=0.3,
            )  # fmt: skip
            axes.plot([], [], marker, color=INK, mfc="none", label=f"cultivar {label + 1}")
        for index in range(size):
            axes.plot([], [], "o", color=COLOURS[index], label=f"component {index + 1}")
        axes.set_xlabel("first factor (posterior mean, no unit)")
        axes.set_ylabel("second factor")
        axes.set_title(f"Wine: {size} components and three cultivars")
        figure.legend(loc="outside right upper")
    return figure
