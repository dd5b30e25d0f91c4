"""Posteriors over structures as figures: inclusion probabilities, leading structures, their probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.figures.base import COLOURS, FAINT, INK, MUTED, PAPER, new_figure, style
from evidentia.studies.harness.terminal.present import show_number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["members", "plot_inclusion", "plot_probabilities", "plot_structures"]

MARKERS = ("o", "s", "D", "^", "v", "P")


def plot_inclusion(tables: Mapping[str, pd.DataFrame], *, title: str = "Inclusion probability") -> Figure:
    """Posterior inclusion probability of each operation, as dots with error bars; priors side by side.

    Args:
        tables: name of the prior -> table with the columns op, probability and, optionally, standard_error.
            The order of the rows is that of the first table.
        title: shown above.

    Raises:
        ValueError: no table, a missing column, or tables of different operations.
    """
    names = _check_inclusion(tables)
    with style():
        figure = new_figure(
            5.6,
            1.3 + len(names) * (0.22 + 0.1 * len(tables)),
            f"Posterior inclusion probability of {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
            f" under {_and(list(tables))}. Bars are ± one standard error where the estimate has one.",
        )
        axes = figure.add_subplot()
        spread = min(0.6, 0.2 * len(tables))
        for i, (prior, table) in enumerate(tables.items()):
            rows = table.assign(op=table["op"].astype(str)).set_index("op").loc[names]
            offset = 0.0 if len(tables) == 1 else spread * (i / (len(tables) - 1) - 0.5)
            axes.errorbar(
                rows["probability"],
                [place + offset for place in range(len(names))],
                xerr=rows["standard_error"].fillna(0.0) if "standard_error" in rows else None,
                fmt=MARKERS[i % len(MARKERS)],
                color=COLOURS[i % len(COLOURS)],
                markersize=5,
                elinewidth=1.2,
                label=prior,
                zorder=3,
            )
        axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        _horizontal(axes, names)
        for place in range(0, len(names), 2):
            axes.axhspan(place - 0.5, place + 0.5, color=FAINT, alpha=0.35, linewidth=0, zorder=0)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("posterior inclusion probability")
        axes.set_title(title)
        if len(tables) > 1:
            figure.legend(loc="outside lower center", ncols=min(3, len(tables)))
    return figure


def _check_inclusion(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    if not tables:
        raise ValueError("plot_inclusion: no table; give {prior: posterior.inclusion()}")
    names: list[str] = []
    for prior, table in tables.items():
        missing = {"op", "probability"} - set(table.columns)
        if missing:
            columns = ", ".join(sorted(missing))
            raise ValueError(f"plot_inclusion: table {prior!r} lacks the column(s) {columns}")

        ops = [str(op) for op in table["op"]]
        names = names or ops
        if sorted(ops) != sorted(names):
            raise ValueError(f"plot_inclusion: table {prior!r} has other operations than the first table")
    return names


def members(label: str) -> tuple[str, ...]:
    """The parts of a structure's label: the members of a subset, or one choice per edge.

    Example:
        >>> members("{sex, bmi}"), members("{}"), members("x->h: tanh; h->f: id"), members("one")
        (('sex', 'bmi'), (), ('x->h: tanh', 'h->f: id'), ('one',))
    """
    text = label.strip()
    if text.startswith("{") and text.endswith("}"):
        return tuple(part.strip() for part in text[1:-1].split(",") if part.strip())
    return tuple(part.strip() for part in text.split(";") if part.strip())


def plot_structures(
    table: pd.DataFrame,
    *,
    features: Sequence[str] | None = None,
    top: int = 12,
    title: str = "Leading structures",
) -> Figure:
    """The most probable structures: what each includes, beside its probability with an error bar.

    Args:
        table: a posterior's table, with the columns structure, probability and, optionally, probability_se.
        features: the columns of the matrix and their order; by default everything that a shown structure
            includes.
        top: how many structures.
        title: shown above.

    Raises:
        ValueError: a column is missing, or the table is empty.
    """
    rows = _leading(table, top, "plot_structures")
    sets = [members(str(label)) for label in rows["structure"]]
    columns = list(features) if features is not None else list(dict.fromkeys(m for s in sets for m in s))
    with style():
        total = float(rows["probability"].sum())
        figure = new_figure(
            2.9 + 0.34 * max(len(columns), 1),
            1.35 + 0.27 * len(rows),
            f"The {len(rows)} most probable structures, holding {total:.4f} of the probability: a dark "
            "dot is included. Bars on the right are posterior probabilities with ± one standard error.",
        )
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(0.34 * max(len(columns), 1), 2.0))
        for y, inside in enumerate(sets):
            here = [x for x, name in enumerate(columns) if name in inside]
            if y % 2 == 0:
                left.axhspan(y - 0.5, y + 0.5, color=FAINT, alpha=0.35, linewidth=0)
            if inside:
                left.scatter(
                    range(len(columns)), [y] * len(columns), s=34, color=FAINT, linewidths=0, zorder=2
                )
            left.scatter(here, [y] * len(here), s=34, color=INK, linewidths=0, zorder=3)
            if not inside:
                left.text(-0.25, y, "none", color=MUTED, va="center", fontsize=8)
        left.set_xticks(range(len(columns)), columns, rotation=60, ha="left", rotation_mode="anchor")
        left.xaxis.tick_top()
        left.set_xlim(-0.6, len(columns) - 0.4)
        left.set_yticks([])
        left.tick_params(length=0)
        left.spines[:].set_visible(False)
        _bars(right, rows)
        right.set_ylim(len(rows) - 0.5, -0.5)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def plot_probabilities(
    table: pd.DataFrame, *, top: int = 15, title: str = "Posterior probability of the structures"
) -> Figure:
    """The probabilities of the leading structures as bars with error bars, one named row each.

    Raises:
        ValueError: a column is missing, or the table is empty.
    """
    rows = _leading(table, top, "plot_probabilities")
    with style():
        figure = new_figure(
            5.6,
            1.15 + 0.27 * len(rows),
            f"Posterior probabilities of the {len(rows)} leading structures, with ± one standard error.",
        )
        axes = figure.add_subplot()
        _bars(axes, rows)
        _horizontal(axes, [_short(str(label)) for label in rows["structure"]])
        axes.set_title(title)
    return figure


def _leading(table: pd.DataFrame, top: int, who: str) -> pd.DataFrame:
    missing = {"structure", "probability"} - set(table.columns)
    if missing:
        raise ValueError(f"{who}: the table lacks the column(s) {', '.join(sorted(missing))}")
    if not len(table):
        raise ValueError(f"{who}: the table has no row")
    return table.sort_values("probability", ascending=False, kind="stable").head(top)


def _bars(axes: Axes, rows: pd.DataFrame) -> None:
    places = range(len(rows))
    axes.barh(places, rows["probability"], height=0.62, color=COLOURS[0], zorder=2)
    errors: Any = rows["probability_se"].fillna(0.0) if "probability_se" in rows else None
    reach = rows["probability"] if errors is None else rows["probability"] + errors
    if errors is not None and bool((errors > 0).any()):
        axes.errorbar(
            rows["probability"],
            places,
            xerr=errors,
            fmt="none",
            ecolor=INK,
            elinewidth=1.1,
            capsize=2,
            zorder=3,
        )
    limit = min(1.0, float(reach.max()) * 1.3) or 1.0
    for place, value, end in zip(places, rows["probability"], reach, strict=True):
        inside = end > 0.8 * limit
        axes.text(
            0.02 * limit if inside else end + 0.02 * limit,
            place,
            show_number("probability", value),
            va="center",
            ha="left",
            fontsize=8,
            color=PAPER if inside else INK,
            zorder=4,
        )
    axes.set_xlim(0.0, limit)
    axes.set_xlabel("posterior probability")
    axes.grid(axis="x", zorder=0)
    axes.tick_params(axis="y", length=0)


def _horizontal(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", zorder=0)
    axes.tick_params(axis="y", length=0)


def _short(text: str, limit: int = 44) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
