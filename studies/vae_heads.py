"""Which law of a pixel describes grey digits best?

The pixels of the digits have seventeen grey levels, 0 ... 16. Three heads turn a decoder's output into the
probability of each level, so that all scores are log masses of the same images and can be compared:

    categorical        P(x_d = l) = softmax(o_d)_l              levels have no order; 17 numbers for a pixel
    logistic           P(x_d = l) = F((l + ½ - m_d) / s_d) - F((l - ½ - m_d) / s_d)       2 numbers
    three logistics    a mixture of three of those                                        9 numbers
    independent pixels the frequencies of the training images, half an image added to each level; no latents

with F the logistic function and the outermost levels taking the rest of the line. A Gaussian head would give
a density, whose nats mean another thing, and a Bernoulli head needs other data; neither is in the table.
Each autoencoder (10 latents) is trained with the ELBO, from three seeds, for 600 steps, or fewer where 150
validation images no longer improve; the heads with fewer numbers are then still improving. It is scored on
300 images held out by an importance-weighted bound

    log p(x) ≥ E log (1/K) Σ_k p(x, z_k) / q(z_k | x)      with K = 100, in nats per image,

and in bits per pixel, nats / (64 log 2). The independent pixels' score is exact.

References:
    Kingma and Welling, 2014. Auto-encoding variational Bayes.
    Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders.
    van den Oord, Kalchbrenner and Kavukcuoglu, 2016. Pixel recurrent neural networks.
    Salimans, Karpathy, Chen and Kingma, 2017. PixelCNN++: improving the PixelCNN with discretized logistic
    mixture likelihood and other modifications.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main
from evidentia.studies.harness.handlers.pixel_heads import HEADS, SHOWN

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.studies.harness.declare.result import Result

LEVELS = 17
SEEDS = 3


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("autoencoder", "likelihood", "digits")
    minutes: ClassVar[float] = 1.5

    hidden: tuple[int, ...] = Field(default=(100,), description="hidden layers of decoder and encoder")
    num_steps: int = Field(default=600, ge=1, description="most training steps of an autoencoder")
    seeds: int = Field(default=SEEDS, ge=1, description="trainings of each head")
    evidence_particles: int = Field(default=100, ge=2, description="importance draws per image")

    def smoke(self) -> "Config":
        """Few steps, few draws, one seed."""
        return self.replace(hidden=(10,), num_steps=2, seeds=1, evidence_particles=4)


@register_study
def study(config: Config) -> Study:
    """Three heads by three seeds, and the independent pixels."""
    training = {
        "objective": "elbo",
        "gradient": "total",
        "compile": "aten" if config.num_steps >= 50 else None,  # recording costs more than a few steps
        "num_steps": config.num_steps,
        "learning_rate": 8e-3,
        "warm_down": 0.5,
        "watch_every": 50,
        "watch_repeats": 4,
        "patience": 5,
        "evidence_particles": config.evidence_particles,
        "saved_rows": 10,
    }
    heads = tuple(name for name in HEADS if name != "independent")
    return Study(
        name="vae-heads",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("digits", {"levels": LEVELS}),
        model=Ref("headed_vae", {"hidden": config.hidden}),
        inference=Ref("latent", training),
        metrics=("pixel_law",),
        seed=config.seed,
        seeds=config.seeds,
        grid=({"model.head": heads}, {"inference": (Ref("independent_pixels"),)}),
        expect=claims(config),
    )


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts at full size."""
    full = Config()
    if config != full.replace(seed=config.seed):
        return ()
    beaten = tuple(
        Claim(
            text=f"{HEADS[head]}: every seed beats the independent pixels by more than 8 nats",
            metric="nats",
            where={"head": head},
            reduce="max",
            op="<",
            value=-8.0,
            than={"head": "independent"},
        )
        for head in HEADS
        if head != "independent"
    )
    ordered = tuple(
        Claim(
            text=f"{HEADS[head]} instead of categorical gains more than 2 nats (mean over the seeds)",
            metric="nats",
            where={"head": head},
            reduce="mean",
            op="<",
            value=-2.0,
            than={"head": "categorical"},
        )
        for head in ("logistic", "three_logistics")
    )
    return beaten + ordered


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def by_head(table: "pd.DataFrame") -> "pd.DataFrame":
    """Means over the seeds, the best head first; `low` and `high` are the extreme seeds."""
    groups: Any = table.groupby("head", sort=False)
    columns = ["nats", "nats_se", "bits", "bits_se", "level_distance", "parameters"]
    means = groups[columns].mean()
    means["low"], means["high"] = groups["bits"].min(), groups["bits"].max()
    found: pd.DataFrame = means.sort_values("nats")
    return found


def conclude(result: "Result") -> list[str]:
    """The answer in words: the score of each head."""
    return [
        f"{HEADS[str(head)].capitalize()}: {row['nats']:.2f} ± {row['nats_se']:.2f} nats per held-out image, "
        f"{row['bits']:.3f} bits per pixel (seeds {row['low']:.3f} to {row['high']:.3f}); the levels it "
        f"draws are {100 * row['level_distance']:.1f} % away from those held out."
        for head, row in by_head(result.table).iterrows()
    ]


def diagnose(result: "Result") -> "dict[str, Figure]":
    """Scores, the frequencies of the levels, and drawn images with the cost of each pixel."""
    first = result.table.drop_duplicates("head").set_index("head")["point"]
    order = [head for head in HEADS if head in first]
    levels, drawn, maps = (
        {HEADS[head]: result.read(str(first[head]), name) for head in order}
        for name in ("levels", "drawn", "map")
    )
    return {"scores": plot(result.table), "levels": plot_levels(levels), "drawn": plot_drawn(drawn, maps)}


def plot(result: "pd.DataFrame") -> "Figure":
    """Bits per pixel of each head, with the spread over the images and each seed."""
    from evidentia.studies.harness.figures.base import COLOURS, INK, new_figure, style

    means = by_head(result).iloc[::-1]
    with style():
        figure = new_figure(
            6.2,
            2.6,
            "Bits per pixel of held-out images, importance-weighted with 100 draws (exact for independent "
            "pixels); smaller is better. Line: one standard error over the images, mostly shared by the "
            "heads. Ticks below: seeds.",
        )
        axes = figure.add_subplot()
        places = range(len(means))
        axes.errorbar(means["bits"], places, xerr=means["bits_se"], fmt="o", color=COLOURS[0], ecolor=INK)
        for place, head in zip(places, means.index, strict=True):
            values = result.loc[result["head"] == head, "bits"]
            axes.plot(values, [place - 0.2] * len(values), "|", color=COLOURS[1], markersize=9)
        axes.set_ylim(-0.6, len(means) - 0.4)
        axes.set_yticks(places, [HEADS[str(head)] for head in means.index])
        axes.set_xlabel("bits per pixel")
        axes.set_title("Grey digits, held out")
    return figure


def plot_levels(tables: "Mapping[str, pd.DataFrame]") -> "Figure":
    """How often each grey level is drawn, against how often it is seen."""
    from matplotlib.ticker import LogLocator, NullFormatter

    from evidentia.studies.harness.figures.base import COLOURS, FAINT, new_figure, style

    with style():
        figure = new_figure(
            6.8,
            3.4,
            "Share of each grey level among all pixels (logarithmic): bars in the held-out images, lines in "
            "2,000 images drawn from each model.",
        )
        axes = figure.add_subplot()
        held_out = next(iter(tables.values()))
        axes.bar(held_out["level"], held_out["held_out"], color=FAINT, label="held-out images")
        for colour, marker, (name, table) in zip(COLOURS, "osD^", tables.items(), strict=False):
            axes.plot(
                table["level"],
                table["drawn"],
                marker=marker,
                markersize=4,
                linewidth=1,
                color=colour,
                label=name,
            )
        axes.set_yscale("log")
        axes.get_yaxis().set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.get_yaxis().set_major_formatter("{x:g}")
        axes.get_yaxis().set_minor_formatter(NullFormatter())
        axes.set_xticks(range(0, LEVELS, 2))
        axes.set_xlabel("grey level")
        axes.set_ylabel("share of the pixels")
        axes.set_title("Levels drawn and seen")
        figure.legend(loc="outside right upper")
    return figure


def plot_drawn(drawn: "Mapping[str, pd.DataFrame]", maps: "Mapping[str, pd.DataFrame]") -> "Figure":
    """A line for each head: images drawn from it, and the cost of each pixel given the latents."""
    from evidentia.studies.harness.figures.base import new_figure, style
    from evidentia.studies.harness.handlers.pictures import images

    with style():
        figure = new_figure(
            8.0,
            0.72 * len(drawn) + 0.9,
            "Images drawn from each model, pixels included, so that the noise of the head is seen. Last "
            "column: mean bits of each pixel of held-out images given the encoder's latents (of independent "
            "pixels: in all).",
        )
        figure.suptitle("Drawn images, and the cost of each pixel", x=0.01, ha="left", weight="bold")
        grid = figure.subplots(len(drawn), SHOWN + 1, squeeze=False)
        top = max(float(images(table).max()) for table in maps.values())
        for line, name in zip(grid, drawn, strict=True):
            pictures = [*images(drawn[name]), images(maps[name])[0]]
            for index, (axes, picture) in enumerate(zip(line, pictures, strict=True)):
                last = index == SHOWN
                shown = axes.imshow(
                    picture, cmap="viridis" if last else "gray_r", vmin=0, vmax=top if last else LEVELS - 1
                )
                axes.set_xticks([])
                axes.set_yticks([])
                for spine in axes.spines.values():
                    spine.set_visible(False)
            line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        bar = figure.colorbar(shown, ax=list(grid[:, -1]), shrink=0.9)
        bar.set_label("bits for a pixel")
    return figure


if __name__ == "__main__":
    run_as_main(__name__)
