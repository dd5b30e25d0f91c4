"""A constant, one feature or all eleven: which sub-model do fifty points support, and what do λ and τ change?

One edge with three alternative operations: f0, a constant; f1 = tanh of one feature; f2 = tanh of all eleven.
The data come from f1 with noise. The first block of the grid moves the weight λ of the prior (λ > 1 acts as a
smaller sample, λ < 1 as a larger one) and the temperature τ of the Gumbel-Softmax prior on the structure. The
structures are enumerated, so that

    π_k ∝ s_k Z_k(1/λ),      Z_k(β) = ∫ p(y | w, k)^β p(w | k) dw,

with the weights integrated by importance sampling from a Gaussian guide fitted to each structure. A vertex of
the simplex has the same prior mass at every τ, so π must not depend on τ, and here it does not. The second
block holds the bounds (ELBO, IWAE) beside the consistent estimate, for a diagonal and a full covariance.

Evidence is in nats for the whole data set. The noise (standard deviation 0.5) and the N(0, 1) prior of the
weights are fixed.

References:
    Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
    Bakhteev and Strijov, 2018. Deep learning model selection of suboptimal complexity.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main
from evidentia.studies.harness.declare.registry import models

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.models.structure.model import FamilyModel
    from evidentia.studies.harness.data.dataset import Dataset
    from evidentia.studies.harness.declare.result import Result

WEIGHTS = (100.0, 1.0, 0.01)
REGIMES = {100.0: "prior dominates", 1.0: "evidence", 0.01: "overfit"}
TEMPERATURES = (0.2, 1.0, 10.0)
STRUCTURES = ("f0", "f1", "f2")
REFERENCE = {"f0": -68.4149, "f1": -36.5510, "f2": -46.45}
"""Log evidence at λ = 1 in nats: f0 in closed form, f1 by quadrature, f2 by annealed importance sampling."""
TOLERANCE = {"f0": 0.02, "f1": 0.02, "f2": 0.2}


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("structure", "networks", "synthetic")
    minutes: ClassVar[float] = 2.0

    num_steps: int = Field(default=1000, ge=1, description="steps of the guides' training")
    evidence_particles: int = Field(default=1000, ge=2, description="importance draws per batch")
    evidence_batches: int = Field(default=50, ge=2, description="independent batches, for the standard error")

    def smoke(self) -> "Config":
        """Short training and few draws."""
        return self.replace(num_steps=20, evidence_particles=20, evidence_batches=3)


@models.register("tanh_family")
def tanh_family(data: "Dataset", temperature: float = 1.0) -> "FamilyModel":
    """The family of the study: one edge with three operations, 15 weights in all.

    Args:
        data: with twelve columns, the last one constant.
        temperature: of the Gumbel-Softmax prior on the structure.
    """
    from evidentia.models.likelihood import Gaussian
    from evidentia.models.structure.family import Family
    from evidentia.models.structure.ops import GLM, Constant
    from evidentia.models.structure.priors import GumbelSoftmax

    first, last = 0, len(data.names) - 1
    ops = {
        "f0": Constant(),
        "f1": GLM(columns=[first, last], activation="tanh"),
        "f2": GLM(activation="tanh"),
    }
    family = Family(data.names).edge("x", "f", ops=ops, prior=GumbelSoftmax(temperature))
    return family.model(likelihood=Gaussian(scale=0.5))


@register_study
def study(config: Config) -> Study:
    """Nine settings of (λ, τ), and four ways to bound or estimate the evidence at λ = τ = 1."""
    effort = {
        "num_steps": config.num_steps,
        "evidence_particles": config.evidence_particles,
        "evidence_batches": config.evidence_batches,
    }
    return Study(
        name="tanh",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("tanh"),
        model=Ref("tanh_family"),
        inference=Ref("enumerate", {"evidence": "importance", "guide": "full_covariance", **effort}),
        seed=config.seed,
        grid=(
            {"inference.prior_weight": WEIGHTS, "model.temperature": TEMPERATURES},
            {
                "inference.prior_weight": (1.0,),
                "model.temperature": (1.0,),
                "inference.evidence": ("elbo", "iwae"),
                "inference.guide": ("mean_field", "full_covariance"),
            },
        ),
        expect=claims(config),
    )


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts at full effort."""
    if config.num_steps < 500 or config.evidence_particles < 500:
        return ()
    evidence = {"prior_weight": 1.0, "evidence": "importance"}
    return (
        Claim(
            text="at λ = 1 the evidence chooses f1, at every τ",
            metric="probability",
            where={**evidence, "structure": "f1"},
            op=">",
            value=0.999,
        ),
        Claim(
            text="at λ = 0.01 (a hundred copies of the data) it chooses f2, the overfit",
            metric="probability",
            where={"prior_weight": 0.01, "structure": "f2"},
            op=">",
            value=0.999,
        ),
        Claim(
            text="at λ = 100 (half a datum) it cannot choose: f2 keeps more than a fifth",
            metric="probability",
            where={"prior_weight": 100.0, "structure": "f2"},
            op=">",
            value=0.2,
        ),
        *(
            Claim(
                text=f"the log evidence of {name} is {value} within {TOLERANCE[name]} nats",
                metric="log_evidence",
                where={**evidence, "structure": name},
                op="==",
                value=value,
                tolerance=TOLERANCE[name],
            )
            for name, value in REFERENCE.items()
        ),
    )


def run(config: Config) -> "pd.DataFrame":
    """The result table, one row per setting and structure, computed in this process without files."""
    return study(config).run().table


def conclude(result: "Result") -> list[str]:
    """The answer in words: the posterior at each λ, and whether τ changed it."""
    rows: Any = result.table[result.table["evidence"] == "importance"]
    grid = rows.pivot_table(index=["prior_weight", "temperature"], columns="structure", values="probability")
    sentences = []
    for weight in WEIGHTS:
        mean = grid.loc[weight].mean()
        spread = float((grid.loc[weight].max() - grid.loc[weight].min()).max())
        shares = ", ".join(f"{name} {mean[name]:.3f}" for name in STRUCTURES)
        sentences.append(
            f"λ = {weight:g} ({REGIMES[weight]}): {shares}; the largest change with τ is {spread:.4f}."
        )
    return sentences


def diagnose(result: "Result") -> "dict[str, Figure]":
    """Posterior probabilities on the grid of λ and τ, and the bounds beside the exact evidence."""
    return {"posterior": plot(result.table), "bounds": plot_bounds(result.table)}


def plot(result: "pd.DataFrame") -> "Figure":
    """Three by three triangles: draws of the relaxed prior, and the posterior over structures as a dot."""
    import torch

    from evidentia.models.distributions.gumbel_softmax import GumbelSoftmax
    from evidentia.studies.harness.figures.base import COLOURS, new_figure, plot_simplex, style

    rows: Any = result[result["evidence"] == "importance"]
    generator_state = torch.get_rng_state()
    with style():
        figure = new_figure(
            7.2,
            6.6,
            "Grey: draws of the Gumbel-Softmax prior at temperature τ. Orange: posterior probabilities of "
            "the three structures, by enumeration. λ moves the posterior between the corners; τ changes only "
            "the prior between the corners, so the columns are constant.",
        )
        grid = figure.subplots(len(TEMPERATURES), len(WEIGHTS))
        for row, temperature in enumerate(TEMPERATURES):
            torch.manual_seed(0)
            prior = GumbelSoftmax(torch.tensor(temperature), torch.zeros(3)).sample((400,)).exp().numpy()
            for column, weight in enumerate(WEIGHTS):
                axes = grid[row, column]
                plot_simplex(
                    prior,
                    STRUCTURES,
                    axes=axes,
                    title=f"λ = {weight:g} ({REGIMES[weight]}), τ = {temperature:g}",
                )
                here = rows[(rows["prior_weight"] == weight) & (rows["temperature"] == temperature)]
                masses = here.set_index("structure")["probability"].reindex(STRUCTURES)
                axes.plot(
                    masses["f2"] + masses["f1"] / 2,
                    masses["f1"] * 3**0.5 / 2,
                    "o",
                    color=COLOURS[1],
                    markersize=9,
                    zorder=5,
                )
    torch.set_rng_state(generator_state)
    return figure


def plot_bounds(result: "pd.DataFrame") -> "Figure":
    """Each bound and estimate of the log evidence at λ = τ = 1, as its distance from the reference value."""
    from evidentia.studies.harness.figures.base import COLOURS, new_figure, style

    rows: Any = result[(result["prior_weight"] == 1.0) & (result["temperature"] == 1.0)]
    rows = rows.assign(estimate=rows["evidence"] + ", " + rows["guide"].str.replace("_", " "))
    names = rows[rows["structure"] == "f2"].sort_values("log_evidence")["estimate"].tolist()
    with style():
        figure = new_figure(
            7.4,
            2.6,
            "Distance in nats from the reference log evidence at λ = 1: exact for f0 and f1, a long annealed "
            "importance sampling run for f2. Bars are standard errors. ELBO and IWAE are lower bounds, the "
            "importance estimate is consistent. The axes differ.",
        )
        for axes, structure in zip(figure.subplots(1, 3, sharey=True), STRUCTURES, strict=True):
            here = rows[rows["structure"] == structure].set_index("estimate").loc[names]
            gap = here["log_evidence"] - REFERENCE[structure]
            axes.errorbar(gap, range(len(names)), xerr=here["standard_error"], fmt="o", color=COLOURS[0])
            axes.axvline(0.0, linestyle="--", linewidth=1, color=COLOURS[1], zorder=0)
            widest = max(0.1, 1.2 * float((gap.abs() + here["standard_error"]).max()))
            axes.set_xlim(-widest, widest / 2)
            axes.locator_params(axis="x", nbins=4)
            axes.set_yticks(range(len(names)), names)
            axes.set_title(f"{structure}: {REFERENCE[structure]:g} nats")
            axes.set_xlabel("nats from the reference")
    return figure


if __name__ == "__main__":
    run_as_main(__name__)
