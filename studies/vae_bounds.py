"""Which bound should train an autoencoder, and with how many particles?

A variational autoencoder of black-and-white digits (64 pixels, 10 latents) is trained by four objectives at
K = 1, 5 and 50 particles: the ELBO, the importance-weighted bound with the plain and with the doubly
reparameterised gradient (DReG), and a Rényi bound of order 0.5. At K = 1 the four are one objective. Every
trained model is scored on 300 images held out, by

    log p(x) ≥ E log (1/K) Σ_k p(x, z_k) / q(z_k | x)      with K = 1000, in nats per image.

More particles make the bound tighter but drown the encoder's gradient in noise: its signal-to-noise ratio
falls as K^(-1/2), while the decoder's rises as K^(1/2); DReG makes the encoder's rise too. The study checks
those slopes on a Gaussian model where they are known, and shows the ratios of the trained network.

References:
    Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders.
    Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, 2018. Tighter variational bounds are not necessarily
    better.
    Tucker, Lawson, Gu and Maddison, 2019. Doubly reparameterized gradient estimators for Monte Carlo
    objectives.
    Li and Turner, 2016. Rényi divergence variational inference.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main
from evidentia.studies.harness.declare.registry import datasets, models

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.models.pair import Pair
    from evidentia.studies.harness.data.dataset import Dataset
    from evidentia.studies.harness.declare.result import Result

PARTICLES = (1, 5, 50)
SLOPES = {("model", "total"): 0.5, ("guide", "total"): -0.5, ("guide", "dreg"): 0.5}
"""What theory predicts for the slope of log signal-to-noise on log K."""
METHODS = {
    ("elbo", "total"): "ELBO",
    ("iwae", "total"): "IWAE",
    ("iwae", "dreg"): "IWAE, DReG",
    ("renyi", "dreg"): "Rényi 0.5",
}
INDEPENDENT_PIXELS = 25.30
"""Test nats of independent Bernoulli pixels, the floor of every table."""


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("autoencoder", "bounds", "digits")
    minutes: ClassVar[float] = 10.0

    num_steps: int = Field(default=2000, ge=1, description="training steps of each autoencoder")
    particles: tuple[int, ...] = Field(default=PARTICLES, min_length=1, description="numbers of particles K")
    evidence_particles: int = Field(default=1000, ge=2, description="importance draws per image")
    signal_particles: tuple[int, ...] = Field(default=(1, 2, 4, 8, 16, 32, 64), description="K of the signal")
    signal_draws: int = Field(default=100, ge=2, description="gradients drawn for each signal")
    copies: int = Field(default=1000, ge=2, description="gradients drawn of the Gaussian model")

    def smoke(self) -> "Config":
        """Few steps, few draws."""
        return self.replace(
            num_steps=3,
            particles=(2,),
            evidence_particles=10,
            signal_particles=(1, 2),
            signal_draws=3,
            copies=20,
        )


@datasets.register("copies")
def copies(rows: int = 1000, width: int = 5) -> "Dataset":
    """One draw of the Gaussian model below, repeated.

    Args:
        rows: how often.
        width: its dimension.
    """
    import numpy

    from evidentia.studies.harness.data.dataset import make_dataset

    row = 2**0.5 * numpy.random.RandomState(0).randn(width)
    return make_dataset(numpy.tile(row, (rows, 1)), None, [f"x{index}" for index in range(width)])


@models.register("gaussian_copies")
def gaussian_copies(data: "Dataset", offset: float = 0.01) -> "Pair":
    """z ~ N(μ, I), x ~ N(z, I), q(z | x) = N(A x + b, 2/3 I) near its optimum; parameters for every row.

    Args:
        data: copies of one row.
        offset: standard deviation of the distance of the parameters from the optimum.
    """
    from evidentia.models.tractable.gaussian_copies import gaussian_copies_pair

    rows, width = data.x.shape
    return gaussian_copies_pair(rows, width, offset)


@register_study
def study(config: Config) -> Study:
    """Four objectives at each K on digits, and the slopes of the signal on a Gaussian model."""
    particles = {"inference.num_particles": config.particles}
    elbo = {"inference.objective": ("elbo",), "inference.gradient": ("total",)}
    effort = {
        "num_steps": config.num_steps,
        "evidence_particles": config.evidence_particles,
        "signal_draws": config.signal_draws,
    }
    return Study(
        name="vae-bounds",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("digits"),
        model=Ref("vae"),
        inference=Ref("latent", effort),
        seed=config.seed,
        grid=(
            {
                **elbo,
                "inference.num_particles": config.particles[:1],
                "inference.signal_particles": (config.signal_particles,),
            },
            *({**elbo, "inference.num_particles": (each,)} for each in config.particles[1:]),
            {"inference.objective": ("iwae",), "inference.gradient": ("total", "dreg"), **particles},
            {
                "inference.objective": ("renyi",),
                "inference.gradient": ("dreg",),
                "inference.alpha": (0.5,),
                **particles,
            },
            {
                "data": (Ref("copies", {"rows": config.copies}),),
                "model": (Ref("gaussian_copies"),),
                "inference": (Ref("signal"),),
            },
        ),
        expect=claims(config),
    )


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts: the slopes always at full size, the order of the bounds where it is settled."""
    full = Config()
    if config.num_steps < full.num_steps or config.copies < full.copies or config.particles != PARTICLES:
        return ()
    names = {"model": "decoder", "guide": "encoder"}
    slopes = tuple(
        Claim(
            text=f"Gaussian model: the {names[program]}'s signal has slope {value:+g} in K ({gradient})",
            metric="slope",
            where={"program": program, "gradient": gradient},
            op="==",
            value=value,
            tolerance=0.08,
        )
        for (program, gradient), value in SLOPES.items()
    )
    return (
        *slopes,
        Claim(
            text="every autoencoder beats independent pixels (25.30 nats)",
            metric="nats",
            where={"data": "digits"},
            op="<",
            value=INDEPENDENT_PIXELS,
        ),
        Claim(
            text="five particles with DReG give a better model than the ELBO with one",
            metric="nats",
            where={"objective": "iwae", "gradient": "dreg", "num_particles": 5},
            op="<",
            than={"objective": "elbo", "num_particles": 1},
        ),
    )


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def trained(table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of the autoencoders, with a column that names the method."""
    rows: Any = table.dropna(subset=["nats"]).copy()
    rows["method"] = [METHODS[pair] for pair in zip(rows["objective"], rows["gradient"], strict=True)]
    return rows


def conclude(result: "Result") -> list[str]:
    """The answer in words: the best model, what the bound leaves out, and the slopes."""
    rows: Any = trained(result.table)
    best = rows.loc[rows["nats"].idxmin()]
    plain = rows[(rows["method"] == "ELBO")].sort_values("num_particles").iloc[0]
    sentences = [
        f"Best held-out score: {best['method']} with K = {best['num_particles']:.0f}, "
        f"{best['nats']:.2f} ± {best['nats_se']:.2f} nats per image; the ELBO with K = "
        f"{plain['num_particles']:.0f} has {plain['nats']:.2f}, independent pixels {INDEPENDENT_PIXELS}.",
        f"The ELBO of that ELBO-trained model is {-plain['test_elbo']:.2f}: "
        f"{-plain['test_elbo'] - plain['nats']:.2f} nats of it are gap, not misfit.",
    ]
    alone = rows[rows["num_particles"] == 1]["nats"]
    if len(alone) > 1:
        sentences.append(
            f"At K = 1 the four objectives are one, so their scores, {alone.min():.2f} to {alone.max():.2f}, "
            "show what the seed alone does."
        )
    slopes: Any = result.table.dropna(subset=["slope"])
    for (program, gradient), theory in SLOPES.items():
        row = slopes[(slopes["program"] == program) & (slopes["gradient"] == gradient)].iloc[0]
        sentences.append(
            f"Signal-to-noise in K, {program}, {gradient} gradient: slope {row['slope']:+.3f} ± "
            f"{row['slope_se']:.3f} (theory {theory:+g})."
        )
    return sentences


def diagnose(result: "Result") -> "dict[str, Figure]":
    """Scores against K, the slopes on the Gaussian model, images drawn from the best model."""
    from evidentia.studies.harness.figures.autoencoders import plot_images, plot_signal

    toy = next(point for point in result.points if point.inference.key == "signal")
    digits = next(point for point in result.points if "signal_particles" in point.inference.params)
    rows: Any = trained(result.table)
    best = str(rows.loc[rows["nats"].idxmin(), "point"])
    return {
        "scores": plot(result.table),
        "signal": plot_signal(result.read(toy, "signal"), SLOPES, title="Gaussian model: signal against K"),
        "trained_signal": plot_signal(
            result.read(digits, "signal"), title="Trained autoencoder of digits: signal against K"
        ),
        "samples": plot_images(
            result.read(best, "samples"), title=f"Drawn from the best model ({rows['nats'].min():.2f} nats)"
        ),
    }


def plot(result: "pd.DataFrame") -> "Figure":
    """Held-out nats per image against the number of particles, one line for each method."""
    from evidentia.studies.harness.figures.base import COLOURS, new_figure, style

    rows = trained(result)
    with style():
        figure = new_figure(
            6.6,
            3.4,
            "Nats per held-out image; smaller is better. Filled: importance-weighted score with 1,000 draws. "
            "Open: minus the ELBO of the same model, which says less about the model the larger K was in "
            "training. All four methods are one at K = 1; their difference there is the spread over seeds.",
        )
        axes = figure.add_subplot()
        for colour, (method, part) in zip(COLOURS, rows.groupby("method", sort=False), strict=False):
            line = part.sort_values("num_particles")
            axes.plot(line["num_particles"], line["nats"], "o-", color=colour, label=method)
            axes.plot(line["num_particles"], -line["test_elbo"], "o:", mfc="none", color=colour, alpha=0.6)
        axes.set_xscale("log")
        axes.set_xticks(sorted(rows["num_particles"].unique()), minor=False)
        axes.get_xaxis().set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.set_xlabel("particles K in training")
        axes.set_ylabel("nats per image")
        axes.set_title("What the training bound is worth")
        axes.legend()
    return figure


if __name__ == "__main__":
    run_as_main(__name__)
