"""Which estimator of the evidence can be trusted, on which posterior, and does it say so when it fails?

Every estimator of the library meets posteriors whose evidence is known: conjugate regressions with 4 to 66
coordinates, eight schools with a heavy-tailed prior, a funnel, two modes of equal mass and two of unequal
mass; and a hierarchical logistic regression, where a long bridge run stands in for the truth. Of each
estimate the table has the error, the standard error that was reported, their ratio z, the cost, and whether
the estimator warned. The worst that can happen is a wrong number without a warning, so that is counted.

All evidences and errors are in nats for the whole data set; `cpu_seconds` include the draws that an estimator
needs. The estimators of one repeat share these draws, so their errors are not independent.

References:
    Meng and Schilling, 2002. Warp bridge sampling.
    Neal, 2001. Annealed importance sampling.
    Grosse, Ghahramani and Adams, 2015. Sandwiching the marginal likelihood using bidirectional Monte Carlo.
    Friel and Wyse, 2012. Estimating the evidence: a review.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.studies.harness.declare.result import Result

DIMENSIONS = (2, 8, 16, 32, 64)
COARSE = "sandwich:20"
METHODS = (
    "warp", "bridge", "importance", "guide",
    "smc", "sandwich", COARSE, "stepping", "thermodynamic",
    "laplace",
)  # fmt: skip
GROWING = ("warp", "bridge", "importance", "guide", "smc", "ais", "stepping", "laplace")
WEAK = (0.3, -0.5, 0.8, -0.2, 0.4, -1.0, 0.1, 0.6, -0.4)
"""What is seen of the funnel: values so near zero that the posterior keeps the narrow part."""
MODELS: dict[str, tuple[Ref, str]] = {
    "normal_mean": (Ref("correlated_rows", {"columns": 8}), "normal mean, D = 8"),
    "nig_regression": (Ref("diabetes"), "regression, D = 12"),
    "eight_schools": (Ref("eight_schools"), "eight schools, D = 10"),
    "hierarchical_logistic": (Ref("breast_cancer", {"columns": 8, "rows": 120}), "logistic, D = 10"),
    "funnel": (Ref("few_numbers", {"values": WEAK}), "funnel, D = 10"),
    "square": (Ref("few_numbers", {"values": (2.0, 2.0)}), "two equal modes, D = 5"),
    "two_modes": (Ref("few_numbers", {"values": (0.0, 0.0)}), "two unequal modes, D = 1"),
    "hidden_mode": (Ref("few_numbers", {"values": (0.8,) * 10}), "hidden mode, D = 10"),
}
HIDDEN = "hidden_mode"
SEEN = tuple(name for name in MODELS if name != HIDDEN)
EXACT = ("normal_mean", "nig_regression", "eight_schools")
"""The models on which a bridge must be right to 0.05 nats."""
CALIBRATED = ("warp", "bridge", "importance", "stepping", "thermodynamic")
"""Not AIS, whose bar is too short before it is refused; nor SMC, which nearly always warns."""
LABELS: dict[str, str] = {
    "warp": "bridge, warp-III",
    "bridge": "bridge, normal",
    "importance": "importance, t5",
    "stepping": "stepping-stone",
    "thermodynamic": "thermodynamic, importance first",
    "thermodynamic_trapezoid": "thermodynamic, trapezoid",
    "smc": "tempered SMC",
    "ais": "AIS, 200 temperatures",
    "ais:20": "AIS, 20 temperatures",
    "sandwich": "sandwich, 200 temperatures",
    "sandwich:20": "sandwich, 20 temperatures",
    "laplace": "Laplace, importance corrected",
    "laplace_bare": "Laplace",
    "iwae_100": "Gaussian guide, IWAE 100",
    "iwae_10": "Gaussian guide, IWAE 10",
    "elbo": "Gaussian guide, ELBO",
}


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("evidence", "estimators", "exact")
    minutes: ClassVar[float] = 3.0

    models: tuple[str, ...] = Field(default=tuple(MODELS), min_length=1, description="of the list MODELS")
    dimensions: tuple[int, ...] = Field(
        default=DIMENSIONS, description="columns of the regressions whose dimension grows"
    )
    repeats: int = Field(default=3, ge=1, description="independent repeats of everything")
    num_chains: int = Field(default=128, ge=8, description="chains of the draws")
    num_draws: int = Field(default=100, ge=8, description="draws of each chain")
    warmup_steps: int = Field(default=100, ge=1, description="transitions before them")
    num_particles: int = Field(default=256, ge=8, description="of each SMC copy, and annealed chains")
    temperatures: int = Field(default=200, ge=2, description="of annealed importance sampling")
    path_draws: int = Field(default=60, ge=2, description="draws of each of 16 chains at a temperature")

    def smoke(self) -> "Config":
        """One posterior and one dimension, few draws."""
        return self.replace(
            models=("two_modes",),
            dimensions=(2,),
            repeats=1,
            num_chains=64,
            num_draws=16,
            warmup_steps=20,
            num_particles=32,
            temperatures=10,
            path_draws=4,
        )


@register_study
def study(config: Config) -> Study:
    """Seven posteriors by all estimators, and one family of growing dimension by most of them."""
    effort = {
        "repeats": config.repeats,
        "num_chains": config.num_chains,
        "num_draws": config.num_draws,
        "warmup_steps": config.warmup_steps,
        "reference_draws": 4 * config.num_draws,
    }
    annealed = {"betas": config.temperatures, "num_chains": config.num_particles}
    options = {
        "smc": {"num_particles": config.num_particles},
        "ais": annealed,
        "sandwich": annealed,
        COARSE: annealed | {"betas": min(20, config.temperatures)},
        "stepping": {"num_draws": config.path_draws},
        "thermodynamic": {"num_draws": max(2, config.path_draws // 2)},  # 33 temperatures
    }
    blocks = [_block(METHODS, options, data=(MODELS[name][0],), model=(Ref(name),)) for name in config.models]
    if config.dimensions:
        rows = {"data": (Ref("correlated_rows"),), "data.columns": config.dimensions}
        blocks.append(_block(GROWING, options, **rows, model=(Ref("nig_regression"),)))
    return Study(
        name="evidence-atlas",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("eight_schools"),
        inference=Ref("evidence", effort),
        seed=config.seed,
        grid=tuple(blocks),
        expect=claims(config),
    )


def _block(words: tuple[str, ...], options: Mapping[str, Any], **axes: Any) -> dict[str, Any]:
    """A block of the grid: its axes, and the methods with their options."""
    chosen = {word: options[word] for word in words if word in options}
    return axes | {"inference.methods": (words,), "inference.options": (chosen,)}


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts at full size."""
    full = Config()
    if any(getattr(config, key) != value for key, value in full if key not in ("seed", "repeats")):
        return ()
    warp, coarse = {"method": "warp"}, {"method": "ais:20", "data": "diabetes"}
    eight = {"model": "eight_schools"}
    return (
        Claim(
            text="no estimator is wrong by more than a nat without a warning, unless the mode is hidden",
            metric="silent",
            where={"model": SEEN},
            op="==",
            value=0,
        ),
        Claim(
            text="warp-III is within 0.05 nats on the regressions, the normal mean and eight schools",
            metric="error",
            where=warp | {"model": EXACT},
            op="==",
            value=0,
            tolerance=0.05,
        ),
        *(
            Claim(
                text=f"{LABELS[word]}: without a warning, within 4.5 standard errors",
                metric="z",
                where={"method": word, "warned": 0, "model": SEEN},
                op="==",
                value=0,
                tolerance=4.5,
            )
            for word in CALIBRATED
        ),
        Claim(
            text="the bounds of a Gaussian guide are not above the evidence by 4.5 standard errors",
            metric="z",
            where={"method": ("elbo", "iwae_10", "iwae_100")},
            op="<=",
            value=4.5,
        ),
        Claim(
            text="AIS with 20 temperatures gets no error bar on the diabetes regression",
            metric="no_error_bar",
            where=coarse,
            op="==",
            value=1,
        ),
        Claim(
            text="and is more than 2 nats wrong there",
            metric="error",
            where=coarse,
            op="<",
            value=-2.0,
        ),
        Claim(
            text="the prior of eight schools has no mean log likelihood: the trapezoid rule is refused",
            metric="refused",
            where=eight | {"method": "thermodynamic_trapezoid"},
            op="==",
            value=1,
        ),
        Claim(
            text="and thermodynamic integration warns of that prior",
            metric="warned",
            where=eight | {"method": "thermodynamic"},
            op="==",
            value=1,
        ),
        Claim(
            text="Laplace is more than 4 nats low on eight schools",
            metric="error",
            where=eight | {"method": "laplace_bare"},
            op="<",
            value=-4.0,
        ),
        Claim(
            text="and warns there",
            metric="warned",
            where=eight | {"method": ("laplace", "laplace_bare")},
            op="==",
            value=1,
        ),
        Claim(
            text="a mode that is invisible until the end is missed by all: they are more than 2 nats low",
            metric="error",
            where={"model": HIDDEN, "refused": 0},
            op="<",
            value=-2.0,
        ),
        Claim(
            text="on two modes the ELBO of one Gaussian is more than 10 nats below the evidence",
            metric="error",
            where={"method": "elbo", "model": "square"},
            op="<",
            value=-10.0,
        ),
        Claim(
            text="and its k-hat does not see it",
            metric="k_hat",
            where={"method": "elbo", "model": "square"},
            op="<",
            value=0.7,
        ),
    )


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def posteriors(table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of the seven posteriors, with a column `posterior` for their names."""
    rows: Any = table[~_grows(table)].copy()
    rows["posterior"] = rows["model"].map({name: label for name, (_, label) in MODELS.items()})
    return rows


def _grows(table: Any) -> Any:
    return (table["model"] == "nig_regression") & (table["data"] == "correlated_rows")


def conclude(result: "Result") -> list[str]:
    """The answer in words, an estimator a sentence, without the hidden mode; and what that mode does."""
    hidden: Any = result.table["model"] == HIDDEN
    sentences = []
    for word, label in LABELS.items():
        rows: Any = result.table[(result.table["method"] == word) & ~hidden]
        given = rows.dropna(subset=["error"])
        if not len(given):
            continue
        error, bound = given["error"].abs(), given["kind"].eq("lower bound").all()
        far = error > 1
        text = f"{label}: median error {error.median():.3f} nats, largest {error.max():.2f}; "
        quiet = given.loc[given["warned"] == 0, "z"].dropna()
        if not bound and len(quiet):
            text += f"z where it did not warn: root mean square {(quiet**2).mean() ** 0.5:.2f}, largest "
            text += f"{quiet.abs().max():.1f}; "
        text += f"warned in {int(rows['warned'].sum())} of {len(rows)} runs, refused in "
        text += f"{int(rows['refused'].sum())}; more than a nat {'below' if bound else 'off'} in "
        text += f"{int(far.sum())}, of these {int((far & (given['warned'] == 0)).sum())} without a warning."
        sentences.append(text)
    unseen: Any = result.table[hidden].dropna(subset=["error"])
    if len(unseen):
        sentences.append(
            f"Hidden mode: {int((unseen['error'] < -2).sum())} of {len(unseen)} values are more than 2 nats "
            f"low, {int((unseen['warned'] == 0).sum())} of {len(unseen)} without a warning. No estimator "
            "warns of what none of its draws has seen."
        )
    return sentences


def diagnose(result: "Result") -> "dict[str, Figure]":
    """Errors by posterior, errors against the dimension, errors against the cost."""
    from evidentia.studies.harness.figures.evidence import plot_cost, plot_dimension

    figures = {"errors": plot(result.table)}
    growing: Any = result.table[_grows(result.table)]
    if len(growing):
        figures["dimension"] = plot_dimension(growing, LABELS)
    # Sandwich and AIS share their value; the others lie upon a neighbour.
    left_out = ("sandwich", COARSE, "thermodynamic_trapezoid", "iwae_10", "laplace_bare")
    shown = {word: label for word, label in LABELS.items() if word not in left_out}
    figures["cost"] = plot_cost(posteriors(result.table), shown)
    return figures


def plot(result: "pd.DataFrame") -> "Figure":
    """Error and error bar of every estimate, a panel for each posterior."""
    from evidentia.studies.harness.figures.evidence import plot_errors

    return plot_errors(posteriors(result), LABELS)


if __name__ == "__main__":
    run_as_main(__name__)
