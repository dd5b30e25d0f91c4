"""Which of ten baseline variables does the evidence support as predictors of diabetes, and how sure are we?

The progression of diabetes after one year in 442 patients, and ten variables measured at its beginning. Each
of the 1,024 subsets is a model with an exact evidence, so the posterior over subsets is exact, under three
priors. Then the question is asked again of 64 predictors (main effects, interactions, squares): 2^64 subsets,
by collapsed Gibbs sampling, whose average over subsets is held against five standard estimators on held-out
rows.

Columns of the result: `log_evidence` in nats for the whole data set, probabilities, and `test_mse` in squared
units of the standardised response.

References:
    Efron, Hastie, Johnstone and Tibshirani, 2004. Least angle regression.
    Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.
    Hoff, 2009. A first course in Bayesian statistical methods, chapter 9.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.studies.harness.declare.result import Result

PRIORS = ("g-prior, uniform", "g-prior, beta-binomial", "normal, uniform")
AVERAGING = "model averaging"
BASELINES = ("least squares", "lasso, cross-validated", "lasso, BIC", "ARD regression", "Bayesian ridge")


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("structure", "regression", "real data")
    minutes: ClassVar[float] = 2.0

    splits: int = Field(
        default=5, ge=1, le=100, description="splits of the 64-predictor data, 342 rows to train"
    )
    num_sweeps: int = Field(
        default=1500, ge=10, description="Gibbs sweeps that are kept, per chain and split"
    )
    warmup_sweeps: int = Field(default=100, ge=0, description="Gibbs sweeps that are dropped before them")
    num_chains: int = Field(default=4, ge=1, le=64, description="Gibbs chains per split")

    def smoke(self) -> "Config":
        """One split and a few sweeps."""
        return self.replace(splits=1, num_sweeps=20, warmup_sweeps=5, num_chains=2)


@register_study
def study(config: Config) -> Study:
    """Three exact enumerations of 1,024 subsets; per split, one Gibbs run and five baselines."""
    splits = tuple(range(config.splits))
    gibbs = Ref(
        "structure_gibbs",
        {
            "num_sweeps": config.num_sweeps,
            "warmup_sweeps": config.warmup_sweeps,
            "num_chains": config.num_chains,
        },
    )
    return Study(
        name="diabetes",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("diabetes"),
        model=Ref("subset_regression"),
        inference=Ref("enumerate"),
        metrics=("held_out_error",),
        seed=config.seed,
        grid=(
            {"model.prior": PRIORS},
            {
                "data": (Ref("diabetes_wide"),),
                "data.split": splits,
                "model.prior": ("g-prior, informed noise",),
                "inference": (gibbs,),
            },
            {
                "data": (Ref("diabetes_wide"),),
                "data.split": splits,
                "model": (None,),
                "inference": (Ref("linear_baseline"),),
                "inference.method": BASELINES,
            },
        ),
        expect=claims(config),
    )


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts; about held-out error only at full size, where it has been established."""
    first = {"prior": "g-prior, uniform", "rank": 1}
    exact = (
        Claim(
            text="the g-prior's best subset is {sex, bmi, bp, s3, s5}",
            metric="structure",
            where=first,
            op="==",
            value="{sex, bmi, bp, s3, s5}",
        ),
        Claim(
            text="and yet its probability is only 0.281",
            metric="probability",
            where=first,
            op="==",
            value=0.2810,
            tolerance=5e-4,
        ),
    )
    full = Config(seed=config.seed)
    if any(getattr(config, name) < getattr(full, name) for name in ("splits", "num_sweeps", "warmup_sweeps")):
        return exact
    averaging = tuple(
        Claim(
            text=f"averaging over subsets predicts better than {rival} (mean over the splits)",
            metric="test_mse",
            where={"method": AVERAGING},
            reduce="mean",
            op="<",
            than={"method": rival},
        )
        for rival in BASELINES
    )
    return exact + averaging


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def conclude(result: "Result") -> list[str]:
    """The answer in words: what each prior supports, what is not settled, what averaging is worth."""
    from evidentia.studies.harness.reporting.findings import inclusion_sentence, structure_sentence

    sentences = []
    for point in result.points:
        if point.inference.key == "enumerate":
            inclusion = result.read(point, "inclusion")
            listed = ", ".join(f"{row.op} {row.probability:.3f}" for row in inclusion.itertuples())
            best = structure_sentence(result.read(point, "structures"))
            sentences.append(f"{point.varied['prior']}: {best} {inclusion_sentence(inclusion)}")
            sentences.append(f"{point.varied['prior']}, inclusion: {listed}.")
    errors = held_out_errors(result.table)
    lead = errors.drop(columns=AVERAGING).sub(errors[AVERAGING], axis=0)
    rival: Any = lead.mean().idxmin()
    sentences.append(
        f"64 predictors: averaging over subsets has a held-out mean squared error of "
        f"{errors[AVERAGING].mean():.3f}; the next best method, {rival}, has {errors[rival].mean():.3f}. "
        f"The difference, paired over {len(errors)} split{'s' if len(errors) > 1 else ''}, is "
        f"{lead[rival].mean():.3f}" + (f" ± {lead[rival].sem():.3f}." if len(errors) > 1 else ".")
    )
    return sentences


def held_out_errors(table: "pd.DataFrame") -> "pd.DataFrame":
    """Mean squared error on the held-out rows: one row per split, one column per method."""
    rows: Any = table.dropna(subset=["test_mse"])
    return rows.pivot(index="split", columns="method", values="test_mse")


def diagnose(result: "Result") -> "dict[str, Figure]":
    """Inclusion under each prior, leading subsets, held-out errors, and inclusion among 64 predictors."""
    from evidentia.studies.harness.figures.structures import plot_inclusion, plot_structures

    exact = {point.varied["prior"]: point for point in result.points if point.inference.key == "enumerate"}
    tables = {prior: result.read(point, "inclusion") for prior, point in exact.items()}
    figures = {
        "inclusion": plot_inclusion(tables, title="Which variables enter, under three priors"),
        "subsets": plot_structures(
            result.read(exact[PRIORS[0]], "structures"), title="Leading subsets of ten variables, g-prior"
        ),
        "held_out_error": plot(result.table),
    }
    wide = [
        result.read(point, "inclusion") for point in result.points if point.inference.key == "structure_gibbs"
    ]
    figures["wide_inclusion"] = plot_inclusion(
        {f"mean of {len(wide)} splits": leading_inclusion(wide)},
        title="64 predictors: the twenty leading ones",
    )
    return figures


def leading_inclusion(tables: "list[pd.DataFrame]", top: int = 20) -> "pd.DataFrame":
    """Mean inclusion probability over splits, with the spread over splits as its standard error."""
    import pandas as pd

    together = pd.concat([table.set_index("op")["probability"] for table in tables], axis=1)
    spread = together.std(axis=1, ddof=1).fillna(0.0) if len(tables) > 1 else 0.0 * together.iloc[:, 0]
    mean = pd.DataFrame({"probability": together.mean(axis=1), "standard_error": spread})
    return mean.sort_values("probability", ascending=False).head(top).rename_axis("op").reset_index()


def plot(result: "pd.DataFrame") -> "Figure":
    """Held-out error of each method on each split, the methods in the order of their means."""
    from evidentia.studies.harness.figures.base import COLOURS, new_figure, style

    errors: Any = held_out_errors(result)
    errors = errors[errors.mean().sort_values(ascending=False).index]
    best = AVERAGING
    with style():
        figure = new_figure(
            6.4,
            3.4,
            "Mean squared error on 100 held-out rows, response in units of its variance. A grey line is one "
            "split; a dot is the mean over splits with its standard error. Splits differ more than methods, "
            "so compare along the lines.",
        )
        axes = figure.add_subplot()
        places = range(len(errors.columns))
        for _, one in errors.iterrows():
            axes.plot(one.to_numpy(), places, color="0.75", linewidth=0.9, zorder=1)
        for place, method in enumerate(errors.columns):
            values = errors[method]
            axes.errorbar(
                values.mean(),
                place,
                xerr=values.sem() if len(values) > 1 else None,
                fmt="o",
                color=COLOURS[1] if method == best else COLOURS[0],
                zorder=3,
            )
        axes.set_yticks(list(places), list(errors.columns))
        axes.set_xlabel("held-out mean squared error")
        axes.set_title(f"64 predictors, {len(errors)} split{'s' if len(errors) > 1 else ''}")
    return figure


if __name__ == "__main__":
    run_as_main(__name__)
