"""How many latent factors, or clusters, does a table of measurements support?

Four families whose evidence is known exactly describe thirteen measurements of 178 wines (and four of 150
iris flowers), each column in units of the training rows:

    probabilistic PCA    x ~ N(μ, WWᵀ + σ² I)        maximum likelihood in closed form
    factor analysis      x ~ N(μ, WWᵀ + Ψ)           EM
    mixtures             x ~ Σ_k π_k N(m_k, C_k)     EM, C_k full or diagonal, a floor added to each variance

with q factors or K components. More of them always fit the training rows better, so every row is scored by a
fit that has not seen it, in five folds: nats for one row, exact, no bound and no sampling. BIC, the
log-likelihood of all rows less half the number of parameters times log n, stands beside it.

The same numbers come out of three other roads, and the study checks that they do: scikit-learn's estimators,
stochastic variational inference with the exact posterior as its guide (its ELBO is the log-likelihood), and
with an encoder whose family holds the posterior.

References:
    Tipping and Bishop, 1999. Probabilistic principal component analysis.
    Rubin and Thayer, 1982. EM algorithms for ML factor analysis.
    McLachlan and Peel, 2000. Finite mixture models.
    Stone, 1974. Cross-validatory choice and assessment of statistical predictions.
    Schwarz, 1978. Estimating the dimension of a model.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.studies.harness.declare.result import Result

LINEAR, MIXTURES = ("ppca", "factors"), ("mixture", "diagonal_mixture")
FACTORS, COMPONENTS = tuple(range(1, 11)), tuple(range(1, 7))
IRIS_FACTORS = (1, 2, 3)
WINE = {"data": "wine"}
FITS = (
    "probabilistic PCA, exact",
    "probabilistic PCA, encoder",
    "factor analysis, exact",
    "mixture, diagonal covariances, enumerated",
)
"""The variational fits."""


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("factor analysis", "mixture", "cross-validation", "wine")
    minutes: ClassVar[float] = 1.0

    factors: tuple[int, ...] = Field(default=FACTORS, min_length=1, description="latent factors of the wines")
    components: tuple[int, ...] = Field(default=COMPONENTS, min_length=1, description="mixture components")
    folds: int = Field(default=5, ge=2, description="folds of the cross-validation")
    starts: int = Field(default=3, ge=1, description="starts of EM for a mixture")
    num_steps: int = Field(default=800, ge=1, description="steps of the variational fits")

    def smoke(self) -> "Config":
        """Two sizes, two folds, one start, a few steps."""
        return self.replace(factors=(1, 2), components=(1, 2), folds=2, starts=1, num_steps=3)


@register_study
def study(config: Config) -> Study:
    """Four families by their sizes on two data sets, and four variational fits."""
    effort = {"folds": config.folds, "starts": config.starts}
    linear = {"inference.family": LINEAR, "inference.floor": (1e-3,)}
    mixtures = {
        "inference.family": MIXTURES,
        "inference.floor": (1e-2,),
        "inference.sizes": (config.components,),
    }
    iris = {"data": (Ref("iris"),)}
    fits = (
        {"family": "ppca", "size": 3, "guide": "exact"},
        {"family": "ppca", "size": 3, "guide": "encoder", "num_particles": 5},
        {"family": "factors", "size": 3, "guide": "exact"},
        # A floor of 0.01, as above, would keep EM 0.009 nats for a row below the maximum.
        {"family": "diagonal_mixture", "size": 3, "guide": "enumerated", "floor": 1e-4},
    )
    return Study(
        name="how-many-factors",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("wine"),
        inference=Ref("latent_counts", effort),
        seed=config.seed,
        grid=(
            {**linear, "inference.sizes": (config.factors,)},
            mixtures,
            # Four columns identify factor analysis with one factor only.
            {
                **iris,
                "inference.family": LINEAR[:1],
                "inference.sizes": (tuple(q for q in config.factors if q in IRIS_FACTORS),),
            },
            {**iris, **mixtures},
            {
                "inference": tuple(
                    Ref("svi_agreement", {**each, "num_steps": config.num_steps, "starts": config.starts})
                    for each in fits
                )
            },
        ),
        expect=claims(config),
    )


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts at full size."""
    full = Config()
    if config != full.replace(seed=config.seed):
        return ()
    interior = tuple(
        Claim(
            text=f"wine, {family}: the best held-out size is neither the smallest nor the largest ({op})",
            metric="best_size",
            where={**WINE, "family": family, "inference": _counts(full)},
            op=op,
            value=value,
        )
        for family, largest in (
            ("ppca", max(FACTORS)),
            ("factors", max(FACTORS)),
            ("mixture", max(COMPONENTS)),
        )
        for op, value in _between(1, largest)
    )
    return (
        Claim(
            text="probabilistic PCA: scikit-learn's log density at its covariance, within 1e-6 nats",
            metric="sklearn_gap",
            where={"family": "ppca", "inference": _counts(full)},
            op="<",
            value=1e-6,
        ),
        Claim(
            text="probabilistic PCA: the maximum is not below scikit-learn's likelihood",
            metric="sklearn_lead",
            where={"family": "ppca", "inference": _counts(full)},
            op=">=",
            value=0.0,
        ),
        Claim(
            text="factor analysis: EM is at most 0.001 nats for a row below scikit-learn's likelihood",
            metric="sklearn_lead",
            where={"family": "factors", "inference": _counts(full)},
            op=">=",
            value=-0.001,
        ),
        *(
            Claim(
                text=f"{family}: EM ends where scikit-learn's ends from the same start, within 1e-6 nats",
                metric="sklearn_gap",
                where={"family": family, "inference": _counts(full)},
                op="<",
                value=1e-6,
            )
            for family in MIXTURES
        ),
        *interior,
        Claim(
            text="variational fits: the bound is the evidence, within 0.005 nats for a row",
            metric="bound_error",
            where={"fit": FITS},
            op="==",
            value=0.0,
            tolerance=0.005,
        ),
        Claim(
            text="variational fits end at the maximum, within 0.005 nats for a row",
            metric="optimum_error",
            where={"fit": FITS},
            op="==",
            value=0.0,
            tolerance=0.005,
        ),
        Claim(
            text="wine: three diagonal components match the cultivars with an adjusted Rand index above 0.7",
            metric="rand",
            where={**WINE, "family": "diagonal_mixture", "size": 3, "inference": _counts(full)},
            op=">",
            value=0.7,
        ),
    )


def _between(least: int, most: int) -> tuple[tuple[Literal["<", ">"], int], ...]:
    return (">", least), ("<", most)


def _counts(config: Config) -> str:
    """How the table names the cross-validation."""
    return Ref("latent_counts", {"folds": config.folds, "starts": config.starts}).label


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def counted(table: "pd.DataFrame", data: str | None = None) -> "pd.DataFrame":
    """The rows of the cross-validation, of one data set if it is named."""
    rows: Any = table.dropna(subset=["held_out"])
    return rows if data is None else rows[rows["data"] == data]


def conclude(result: "Result") -> list[str]:
    """The answer in words: the best size of each family, the clusters, and the agreement of the fits."""
    from evidentia.studies.harness.handlers.tractable_fits import FAMILIES

    sentences = []
    rows: Any = counted(result.table)
    for (data, family), part in rows.groupby(["data", "family"], sort=False):
        best = part.loc[part["held_out"].idxmax()]
        near = part[part["behind_best"] <= part["behind_best_se"]]["size"].min()
        sentences.append(
            f"{str(data).capitalize()}, {FAMILIES[family]}: {best['size']:.0f} give the best held-out score, "
            f"{best['held_out']:.2f} ± {best['held_out_se']:.2f} nats for a row; {near:.0f} are within one "
            f"standard error of it, and BIC takes {best['bic_size']:.0f}."
        )
    clusters: Any = counted(result.table).dropna(subset=["rand"])
    for row in clusters[clusters["size"] == clusters["best_size"]].itertuples():
        sentences.append(
            f"{row.data.capitalize()}, {FAMILIES[row.family]}: the {row.size:.0f} clusters match the three "
            f"labels with an adjusted Rand index of {row.rand:.2f}."
        )
    for row in result.table.dropna(subset=["bound"]).itertuples():
        sentences.append(
            f"Variational fit, {row.fit}: bound less evidence {row.bound_error:+.1e}, evidence less maximum "
            f"likelihood {row.optimum_error:+.1e} nats for a row."
        )
    return sentences


def diagnose(result: "Result") -> "dict[str, Figure]":
    """Held-out scores of both data sets, BIC, and the wines by responsibility."""
    from evidentia.studies.harness.figures.counts import plot_clusters

    wanted = next(
        point
        for point in result.points
        if point.data.key == "wine" and point.inference.params["family"] == "diagonal_mixture"
    )
    sizes = wanted.inference.params["sizes"]
    size = 3 if 3 in sizes else max(sizes)
    iris: Any = counted(result.table, "iris")
    return {
        "held_out": plot(result.table),
        "held_out_iris": _scores(iris, "Iris: held-out log density"),
        "clusters": plot_clusters(result.read(wanted, f"clusters_{size}"), size),
    }


def plot(result: "pd.DataFrame") -> "Figure":
    """Held-out log density of the wines against the number of latents."""
    return _scores(counted(result, "wine"), "Wine: held-out log density")


def _scores(rows: "pd.DataFrame", title: str) -> "Figure":
    from evidentia.studies.harness.figures.counts import plot_scores
    from evidentia.studies.harness.handlers.tractable_fits import FAMILIES

    names: dict[str, str] = dict(FAMILIES)
    return plot_scores(
        rows,
        {
            "latent factors": {family: names[family] for family in LINEAR},
            "components": {family: names[family] for family in MIXTURES},
        },
        title=title,
    )


if __name__ == "__main__":
    run_as_main(__name__)
