"""Where does the bound of an autoencoder lose: in the family of its encoder, or in the encoder?

For every datum

    log p(x) - ELBO(q) = KL(q ‖ p(z|x)) = KL(q* ‖ p(z|x))  +  KL(q ‖ p(z|x)) - KL(q* ‖ p(z|x))
          total gap                      approximation gap       amortisation gap

with q* the best member of the encoder's family for that datum. A richer family (here: a full covariance in
place of a diagonal one) shrinks the first part, a larger encoder the second. Autoencoders of black-and-white
digits with encoders of three sizes and two families are trained with the ELBO and taken apart on held-out
images. A linear-Gaussian model, whose evidence and approximation gap are known, goes through the same calls.

All numbers are in nats per datum. The evidence is an importance-weighted bound with q* as its proposal, so
total and approximation gap are lower bounds; the amortisation gap is not affected.

References:
    Cremer, Li and Duvenaud, 2018. Inference suboptimality in variational autoencoders.
    Dai, Wang, Aston, Hua and Wipf, 2018. Connections with robust PCA and the role of emergent sparsity in
    variational autoencoder models.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main
from evidentia.studies.harness.declare.registry import datasets, metrics, models

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.models.pair import Pair
    from evidentia.studies.harness.data.dataset import Dataset
    from evidentia.studies.harness.declare.result import Result
    from evidentia.studies.harness.engine.outcome import Outcome, Problem

ENCODERS = ((30,), (200,), (400, 400))
FAMILIES = {False: "diagonal", True: "full covariance"}


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("autoencoder", "bounds", "digits")
    minutes: ClassVar[float] = 4.0

    encoders: tuple[tuple[int, ...], ...] = Field(
        default=ENCODERS, min_length=1, description="hidden layers of the encoders"
    )
    num_steps: int = Field(default=3000, ge=1, description="training steps of each autoencoder")
    gap_steps: int = Field(default=500, ge=1, description="steps of the guides of single images")
    gap_rows: int = Field(default=150, ge=2, description="held-out images that are taken apart")
    evidence_particles: int = Field(default=1000, ge=2, description="importance draws per image")

    def smoke(self) -> "Config":
        """Few steps, few images."""
        return self.replace(encoders=((30,),), num_steps=3, gap_steps=3, gap_rows=5, evidence_particles=10)


@datasets.register("linear_rows")
def linear_rows(rows: int = 1000, test_rows: int = 200) -> "Dataset":
    """Rows of x = W z + 0.5 ε with two latents and four columns; W is `FACTOR`.

    Args:
        rows: rows to train on.
        test_rows: rows held out.
    """
    import numpy

    from evidentia.studies.harness.data.dataset import make_dataset

    state = numpy.random.RandomState(0)
    z, noise = state.randn(rows + test_rows, 2), state.randn(rows + test_rows, 4)
    x = z @ numpy.array(FACTOR).T + 0.5 * noise
    return make_dataset(x[:rows], None, [f"x{index}" for index in range(4)], test_x=x[rows:])


FACTOR = ((1.0, 0.6), (0.8, -0.2), (0.3, 0.9), (0.7, 0.7))


@models.register("linear_gaussian")
def linear_gaussian(data: "Dataset", full_covariance: bool = False) -> "Pair":
    """The model of `linear_rows`, held fixed, with a linear encoder that is exact in the mean.

    Args:
        data: rows of four columns.
        full_covariance: let the latents correlate under the encoder's law.
    """
    import torch

    from evidentia.models.latent.encoder import Encoder
    from evidentia.models.pair import Pair
    from evidentia.models.tractable.ppca import ProbabilisticPCA

    width = len(data.names)
    factor = torch.tensor(FACTOR, dtype=torch.float64)
    model = ProbabilisticPCA(factor.new_zeros(width), factor, 0.25).eval().requires_grad_(False)
    return Pair(model, Encoder(width, 2, (), full_covariance=full_covariance).double())


@metrics.register("exact_gap")
def exact_gap(outcome: "Outcome", problem: "Problem") -> dict[str, float]:
    """What the gaps of a linear-Gaussian model should be; empty for other models.

    Columns ``exact_nats``, ``exact_approximation_gap`` and the differences from what was measured.
    """
    import torch

    from evidentia.models.tractable.linear_gaussian import LinearGaussian, mean_field_gap

    fit = outcome.extra["fit"]
    model, guide = fit.pair
    if not isinstance(model, LinearGaussian):
        return {}
    row = outcome.rows[0]
    with fit.scope(), torch.no_grad():
        nats = -float(model.log_evidence(problem.data.test_x).mean())
        gap = 0.0 if guide.full_covariance else float(mean_field_gap(model.factor, model.variance))
    return {
        "exact_nats": nats,
        "exact_approximation_gap": gap,
        "nats_error": row["nats"] - nats,
        "gap_error": row["approximation_gap"] - gap,
    }


@register_study
def study(config: Config) -> Study:
    """Three encoders by two families on digits, and two families where the gaps are known."""
    return Study(
        name="vae-gaps",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("digits"),
        model=Ref("vae"),
        inference=Ref(
            "latent",
            {
                "objective": "elbo",
                "gradient": "total",
                "num_steps": config.num_steps,
                "gap_steps": config.gap_steps,
                "gap_rows": config.gap_rows,
                "evidence_particles": config.evidence_particles,
            },
        ),
        metrics=("exact_gap",),
        seed=config.seed,
        grid=(
            {"model.encoder_hidden": config.encoders, "model.full_covariance": tuple(FAMILIES)},
            {
                "data": (Ref("linear_rows"),),
                "model": (Ref("linear_gaussian"),),
                "model.full_covariance": tuple(FAMILIES),
                "inference.learning_rate": (0.01,),
            },
        ),
        expect=claims(config),
    )


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts at full size."""
    full = Config()
    effort = ("num_steps", "gap_steps", "gap_rows")
    if config.encoders != ENCODERS or any(getattr(config, key) < getattr(full, key) for key in effort):
        return ()
    digits = {"data": "digits"}
    return (
        Claim(
            text="linear model: the measured approximation gap is the exact one within 0.02 nats",
            metric="gap_error",
            where={"model": "linear_gaussian"},
            op="==",
            value=0.0,
            tolerance=0.02,
        ),
        Claim(
            text="linear model: the estimated evidence is the exact one within 0.02 nats",
            metric="nats_error",
            where={"model": "linear_gaussian"},
            op="==",
            value=0.0,
            tolerance=0.02,
        ),
        Claim(
            text="digits: a full covariance has a smaller approximation gap (mean over the encoders)",
            metric="approximation_gap",
            where={**digits, "full_covariance": True},
            reduce="mean",
            op="<",
            than={**digits, "full_covariance": False},
        ),
    )


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def digits_rows(table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of the autoencoders, with a column that names the encoder."""
    rows: Any = table[table["model"] == "vae"].copy()
    names = rows["encoder_hidden"].str.strip("[]").str.replace(",", ", ")
    rows["encoder"] = names + ", " + rows["full_covariance"].astype(bool).map(FAMILIES)
    return rows


def conclude(result: "Result") -> list[str]:
    """The answer in words: the parts of the gap for each encoder, and the check on the known model."""
    digits: Any = digits_rows(result.table)
    sentences = [
        f"Encoder {row.encoder}: {row.nats:.2f} nats per image; of the gap of {row.total_gap:.2f}, "
        f"{row.approximation_gap:.2f} belong to the family and {row.amortisation_gap:.2f} to the encoder."
        for row in digits.itertuples()
    ]
    known: Any = result.table[result.table["model"] == "linear_gaussian"]
    sentences += [
        f"Linear-Gaussian model, {FAMILIES[bool(row.full_covariance)]}: approximation gap "
        f"{row.approximation_gap:.3f} ± {row.approximation_gap_se:.3f} (exact "
        f"{row.exact_approximation_gap:.3f}), amortisation gap {row.amortisation_gap:.3f} ± "
        f"{row.amortisation_gap_se:.3f}."
        for row in known.itertuples()
    ]
    return sentences


def diagnose(result: "Result") -> "dict[str, Figure]":
    """The two parts of the gap for every encoder."""
    return {"gaps": plot(result.table)}


def plot(result: "pd.DataFrame") -> "Figure":
    """Bars of approximation and amortisation gap, one for each encoder."""
    from evidentia.studies.harness.figures.base import COLOURS, new_figure, style

    rows = digits_rows(result).iloc[::-1]
    with style():
        figure = new_figure(
            6.8,
            3.2,
            "Nats per held-out image between the evidence and the ELBO. The two parts add up to the total "
            "gap. Labels: hidden layers of the encoder, and the family of its law.",
        )
        axes = figure.add_subplot()
        places = range(len(rows))
        axes.barh(places, rows["approximation_gap"], color=COLOURS[0], label="approximation (family)")
        axes.barh(
            places,
            rows["amortisation_gap"],
            left=rows["approximation_gap"],
            color=COLOURS[1],
            label="amortisation (encoder)",
        )
        axes.set_yticks(list(places), rows["encoder"])
        axes.set_xlabel("nats per image")
        axes.set_title("Where the bound loses")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    run_as_main(__name__)
