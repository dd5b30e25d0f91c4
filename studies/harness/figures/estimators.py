"""Figures of gradient estimators: the bound while training, and bias and variance of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evidentia.studies.harness.figures.base import COLOURS, FAINT, new_figure, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["plot_noise", "plot_scores", "plot_training"]


def plot_training(watched: pd.DataFrame, labels: Mapping[str, str], *, rows: int) -> Figure:
    """The bound on validation images against the step, mean over the seeds.

    Args:
        watched: columns ``estimator``, ``step`` and ``loss``, the last for a whole training set.
        labels: names of the estimators in the order of the legend.
        rows: of the training set.
    """
    with style():
        figure = new_figure(
            6.8,
            4.0,
            "Minus the ELBO on 150 validation images (four copies) during the training, mean "
            "over the seeds. Dashed: the estimators after the sixth in the legend.",
        )
        axes = figure.add_subplot()
        for index, (name, label) in enumerate(labels.items()):
            part = watched[watched["estimator"] == name].groupby("step")["loss"].mean()
            if len(part):
                axes.plot(
                    part.index, part / rows, "-" if index < 6 else "--",
                    color=COLOURS[index % 6], label=label,
                )  # fmt: skip
        axes.set_xlabel("step")
        axes.set_ylabel("nats per image")
        axes.set_title("Held-out bound while training")
        figure.legend(loc="outside right upper")
    return figure


def plot_noise(table: pd.DataFrame, labels: Mapping[str, str], *, biased: Sequence[str]) -> Figure:
    """Variance and squared bias of each estimator at the same parameters, logarithmic.

    Args:
        table: indexed by estimator, columns ``variance``, ``bias_squared`` and ``evaluations``.
        labels: names of the estimators.
        biased: those whose bias is drawn.
    """
    from matplotlib.patches import Patch

    rows = table.iloc[::-1]
    with style():
        figure = new_figure(
            6.6,
            4.0,
            "Expected squared distance of one estimate from the exact gradient in the encoder's logits of an "
            "image, in nats², split into variance and squared bias (logarithmic, side by side). The "
            "estimators without a lower bar are unbiased. In brackets: decoder runs for each image.",
        )
        axes = figure.add_subplot()
        for place, (name, row) in enumerate(rows.iterrows()):
            axes.barh(place + 0.19, row["variance"], 0.36, color=COLOURS[0])
            if name in biased:
                axes.barh(place - 0.19, row["bias_squared"], 0.36, color=COLOURS[1])
        ticks = [f"{labels[str(name)]} ({row['evaluations']:.0f})" for name, row in rows.iterrows()]
        axes.set_yticks(range(len(rows)), ticks)
        axes.set_xscale("log")
        axes.set_xlim(left=0.3 * float(rows.loc[rows.index.isin(biased), "bias_squared"].clip(1e-6).min()))
        axes.set_xlabel("nats² per image, summed over the latents")
        axes.set_title("Noise of the encoder's gradient")
        parts = [Patch(color=COLOURS[0], label="variance"), Patch(color=COLOURS[1], label="bias²")]
        figure.legend(handles=parts, loc="outside lower center", ncols=2)
    return figure


def plot_scores(rows: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Held-out bound and evidence of every seed, one line for each estimator, the best on top.

    Args:
        rows: columns ``estimator``, ``bound_nats`` and ``exact_nats``, one row for each seed.
        labels: names of the estimators.
    """
    order = rows.groupby("estimator")["bound_nats"].mean().sort_values(ascending=False)
    with style():
        figure = new_figure(
            6.6,
            3.6,
            "Nats per held-out image, exact by a sum over all states; smaller is better. One mark for each "
            "seed. The distance between the two is the divergence of the encoder from the posterior.",
        )
        axes = figure.add_subplot()
        for place, name in enumerate(order.index):
            part = rows[rows["estimator"] == name]
            axes.axhline(place, color=FAINT, linewidth=0.6, zorder=0)
            marks: Any = {"linestyle": "none", "alpha": 0.8}
            first = place == 0
            axes.plot(
                part["bound_nats"], [place] * len(part), "o", color=COLOURS[0], **marks,
                label="bound" if first else None,
            )  # fmt: skip
            axes.plot(
                part["exact_nats"], [place] * len(part), "D", color=COLOURS[1], mfc="none", **marks,
                label="log evidence (minus)" if first else None,
            )  # fmt: skip
        axes.set_yticks(range(len(order)), [labels[str(name)] for name in order.index])
        axes.set_xlabel("nats per image")
        axes.set_title("What each estimator trains")
        figure.legend(loc="outside lower center", ncols=2)
    return figure
