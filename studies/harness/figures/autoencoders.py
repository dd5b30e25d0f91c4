"""Figures of autoencoders: images, latent traversals, active units, signal-to-noise lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.figures.base import COLOURS, INK, MUTED, new_figure, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["plot_images", "plot_signal", "plot_traversals", "plot_units"]

_LABELS = {"model": "decoder", "guide": "encoder", "total": "plain gradient", "dreg": "DReG"}


def plot_images(table: pd.DataFrame, *, columns: int = 10, title: str = "") -> Figure:
    """The images of a table, side by side.

    Args:
        table: one image per row, columns ``pixel_*``.
        columns: images in a line.
        title: shown above.
    """
    from evidentia.studies.harness.handlers.pictures import images

    pictures = images(table)
    lines = -(-len(pictures) // columns)
    with style():
        figure = new_figure(
            0.62 * columns,
            0.62 * lines + 0.4,
            "Mean pixel values, white 0 and black 1, of latents drawn from the prior.",
        )
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        grid = figure.subplots(lines, columns, squeeze=False)
        for index, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if index < len(pictures):
                axes.imshow(pictures[index], cmap="gray_r", vmin=0, vmax=max(1.0, float(pictures.max())))
    return figure


def plot_traversals(table: pd.DataFrame, *, title: str = "") -> Figure:
    """One line of images for each latent, which moves from -3 to 3 while the others rest at zero.

    Args:
        table: columns ``latent``, ``step`` and ``pixel_*``.
        title: shown above.
    """
    from evidentia.studies.harness.handlers.pictures import images

    latents = list(dict.fromkeys(table["latent"]))
    steps = list(dict.fromkeys(table["step"]))
    pictures = images(table).reshape(len(latents), len(steps), *images(table).shape[1:])
    with style():
        figure = new_figure(
            0.7 * len(steps) + 1.0,
            0.66 * len(latents) + 0.5,
            "Mean images while one latent moves and the others are zero; the most active latents first.",
        )
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        grid = figure.subplots(len(latents), len(steps), squeeze=False)
        top = max(1.0, float(pictures.max()))
        for row, latent in enumerate(latents):
            for column, step in enumerate(steps):
                axes = grid[row, column]
                axes.imshow(pictures[row, column], cmap="gray_r", vmin=0, vmax=top)
                axes.set_xticks([])
                axes.set_yticks([])
                for spine in axes.spines.values():
                    spine.set_visible(False)
                if column == 0:
                    axes.set_ylabel(f"z{latent}", rotation=0, ha="right", va="center", color=INK)
                if row == 0:
                    axes.set_title(f"{step:+g}", fontsize=8, loc="center", weight="normal", color=MUTED)
    return figure


def plot_units(tables: Mapping[str, pd.DataFrame], *, threshold: float = 0.01, title: str = "") -> Figure:
    """The variance of each latent's posterior mean, in falling order, with the threshold of activity.

    Args:
        tables: by label, with column ``activity``.
        threshold: drawn as a line.
        title: shown above.
    """
    with style():
        figure = new_figure(
            6.0,
            3.0,
            "Variance over the held-out images of each latent's posterior mean. A latent above "
            f"{threshold:g} is called active.",
        )
        axes = figure.add_subplot()
        for colour, (label, table) in zip(COLOURS, tables.items(), strict=False):
            values = table["activity"].sort_values(ascending=False).to_numpy()
            count = int((values > threshold).sum())
            axes.plot(range(1, len(values) + 1), values, "o-", color=colour, label=f"{label}: {count} active")
        axes.axhline(threshold, color=MUTED, linestyle="--", linewidth=1)
        axes.set_yscale("log")
        axes.set_xlabel("latent, in falling order")
        axes.set_ylabel("activity")
        axes.set_title(title)
        axes.legend()
    return figure


def plot_signal(
    table: pd.DataFrame, slopes: Mapping[tuple[str, str], float] | None = None, *, title: str = ""
) -> Figure:
    """Signal-to-noise ratio against the number of particles, on logarithmic axes.

    Args:
        table: columns ``num_particles``, ``gradient``, ``program``, ``snr``.
        slopes: what theory predicts, by (program, gradient); drawn as grey lines through the last point.
        title: shown above.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    with style():
        figure = new_figure(
            6.0,
            3.4,
            "Ratio of mean to standard deviation of a gradient entry, averaged over the entries, against the "
            "number of particles; both axes logarithmic."
            + (" Grey: the slope that theory predicts." if slopes else ""),
        )
        axes = figure.add_subplot()
        groups: Any = table.groupby(["program", "gradient"])
        for colour, ((program, gradient), part) in zip(COLOURS, groups, strict=False):
            line = part.sort_values("num_particles")
            x, y = line["num_particles"].to_numpy(dtype=float), line["snr"].to_numpy(dtype=float)
            axes.plot(x, y, "o-", color=colour, label=f"{_LABELS[program]}, {_LABELS[gradient]}")
            if slopes and (program, gradient) in slopes:
                axes.plot(x, y[-1] * (x / x[-1]) ** slopes[program, gradient], color="0.7", zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.get_xaxis().set_major_formatter("{x:.0f}")
        axes.get_yaxis().set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.get_yaxis().set_major_formatter("{x:g}")
        axes.get_yaxis().set_minor_formatter(NullFormatter())
        axes.set_xlabel("particles K")
        axes.set_ylabel("signal-to-noise ratio")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=2)
    return figure
