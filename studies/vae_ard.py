"""How many latents does an autoencoder need?

Every latent has a global scale γ with an inverse-gamma prior on γ², and the data see z ⊙ γ:

    p(x) = ∬ p(x | z ⊙ γ) p(z) p(γ) dz dγ.

The evidence drives the scales of useless latents to the mode of their prior. A latent is counted as active
when the posterior of γ² has left that mode: ρ = q(mode of p) / q(mode of q) < 0.001.

With a linear decoder and Gaussian noise σ² the answer is known: the number of eigenvalues of the sample
covariance above σ², as in probabilistic PCA, and γ_j² = eigenvalue - σ². The study holds the count against
that on grey digits, for three laws of γ² under the guide. Then it asks the same of a network on
black-and-white digits, beside a plain autoencoder with as many latents.

References:
    Karaletsos and Rätsch, 2015. Automatic relevance determination for deep generative models.
    Tipping and Bishop, 1999. Probabilistic principal component analysis.
    Bishop, 1999. Bayesian PCA.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main
from evidentia.studies.harness.declare.registry import metrics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.studies.harness.declare.result import Result
    from evidentia.studies.harness.engine.outcome import Outcome, Problem

FAMILIES = ("log_normal", "gamma", "inverse_gamma")
NOISE = 5.34
"""Standard deviation of the noise of grey pixels (levels 0 ... 16) in the linear model; its unit."""
LATENTS = 40


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("autoencoder", "relevance", "digits")
    minutes: ClassVar[float] = 3.0

    num_steps: int = Field(default=4000, ge=1, description="training steps of the linear models")
    network_steps: int = Field(default=8000, ge=1, description="training steps of the networks")
    evidence_particles: int = Field(default=1000, ge=2, description="importance draws per image")

    def smoke(self) -> "Config":
        """Few steps, few draws."""
        return self.replace(num_steps=3, network_steps=3, evidence_particles=10)


@metrics.register("relevance")
def relevance(outcome: "Outcome", problem: "Problem") -> dict[str, Any]:
    """The number of active latents by the law of their scales; empty for a model without scales.

    Column ``relevant``; for a linear decoder also ``eigenvalues`` (of the covariance of the training rows,
    above the noise), their difference ``excess``, and ``scale_error`` (largest distance of γ² from
    eigenvalue - σ², relative to the largest eigenvalue). The table ``relevance`` has a line for each latent,
    the most relevant first.
    """
    import pandas as pd
    import torch

    from evidentia.inference.structure.prune import active_latents, mode_density
    from evidentia.models.latent.vae_ard import VAEARD

    fit = outcome.extra["fit"]
    model, guide = fit.pair
    if not isinstance(model, VAEARD):
        return {}
    with fit.scope(), torch.no_grad():
        posterior, prior = guide.relevance.distribution(), model.relevance_prior()
        squared, active = posterior.mean, active_latents(posterior, prior)
        density = mode_density(posterior, prior)
    table = pd.DataFrame(
        {"latent": range(len(squared)), "squared_scale": squared.numpy(), "density": density.numpy()}
    ).sort_values("squared_scale", ascending=False, ignore_index=True)
    row: dict[str, Any] = {"relevant": int(active.sum())}
    scale = getattr(model.head, "scale", None)
    if scale is not None:
        values = torch.linalg.eigvalsh(torch.cov(problem.data.x.T, correction=0)).flip(0)[: len(table)]
        table["eigenvalue_less_noise"] = (values - 1).clamp_min(0).numpy()
        distance = (table["squared_scale"] - table["eigenvalue_less_noise"]).abs().max()
        row |= {
            "eigenvalues": int((values > 1).sum()),
            "scale_error": float(distance / values[0]),
        }
        row["excess"] = row["relevant"] - row["eigenvalues"]
    outcome.tables["relevance"] = table
    return row


@register_study
def study(config: Config) -> Study:
    """Three linear models whose count is known, a network with scales, and one without."""
    effort = {"num_steps": config.num_steps, "evidence_particles": config.evidence_particles}
    training = {"objective": "elbo", "gradient": "total", "learning_rate": 0.005, "warm_down": 0.5}
    linear = {"latent": 20, "hidden": (), "noise": 1.0}
    return Study(
        name="vae-ard",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("digits"),
        model=Ref("vae_ard", {"latent": LATENTS}),
        inference=Ref("latent", training | effort),
        metrics=("relevance",),
        seed=config.seed,
        grid=(
            {
                "data": (Ref("digits", {"levels": 17, "unit": NOISE}),),
                "model": (Ref("vae_ard", linear),),
                "model.family": FAMILIES,
                "inference.learning_rate": (0.05,),
                "inference.batch_size": (None,),
            },
            {
                "model": (Ref("vae_ard", {"latent": LATENTS}), Ref("vae", {"latent": LATENTS})),
                "inference.num_steps": (config.network_steps,),
            },
        ),
        expect=claims(config),
    )


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts at full size."""
    full = Config()
    if config.num_steps < full.num_steps or config.network_steps < full.network_steps:
        return ()
    counts = tuple(
        Claim(
            text=f"linear decoder, {family}: as many active latents as eigenvalues above the noise",
            metric="excess",
            where={"family": family},
            op="==",
            value=0,
        )
        for family in FAMILIES
    )
    return (
        *counts,
        Claim(
            text=f"the network with scales keeps fewer than half of its {LATENTS} latents",
            metric="relevant",
            where={"model": f"vae_ard(latent={LATENTS})"},
            op="<",
            value=LATENTS / 2,
        ),
    )


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def linear_rows(table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of the linear models."""
    return table.dropna(subset=["eigenvalues"])


def conclude(result: "Result") -> list[str]:
    """The answer in words: the counts of the linear models, and those of the networks."""
    linear: Any = linear_rows(result.table)
    sentences = [
        f"Linear decoder, {row.family.replace('_', ' ')} guide: {row.relevant:.0f} active latents, "
        f"{row.eigenvalues:.0f} eigenvalues above the noise; the squared scales are off by at most "
        f"{100 * row.scale_error:.1f} % of the largest eigenvalue."
        for row in linear.itertuples()
    ]
    networks: Any = result.table[result.table["eigenvalues"].isna()]
    for row in networks.itertuples():
        has_scales = row.relevant == row.relevant
        name = "Network with scales" if has_scales else "Network without scales"
        by_scale = f"{row.relevant:.0f} by their scales, " if has_scales else ""
        sentences.append(
            f"{name}: of {LATENTS} latents {by_scale}{row.active:.0f} by their activity; {row.nats:.2f} ± "
            f"{row.nats_se:.2f} nats per held-out image."
        )
    return sentences


def diagnose(result: "Result") -> "dict[str, Figure]":
    """Scales against eigenvalues, activity of the networks' latents, and what the leading latents draw."""
    from evidentia.studies.harness.figures.autoencoders import plot_images, plot_traversals, plot_units

    scaled, plain = (
        next(p for p in result.points if p.model and p.model.key == key and not p.data.params)
        for key in ("vae_ard", "vae")
    )
    tables = {"with scales": result.read(scaled, "units"), "without": result.read(plain, "units")}
    linear = {
        point.varied["family"]: result.read(point, "relevance")
        for point in result.points
        if point.data.params
    }
    return {
        "scales": plot_scales(linear),
        "units": plot_units(tables, title=f"Activity of {LATENTS} latents, networks of digits"),
        "traversals": plot_traversals(result.read(scaled, "traversals"), title="The leading latents"),
        "samples": plot_images(result.read(scaled, "samples"), title="Drawn from the network with scales"),
    }


def plot(result: "pd.DataFrame") -> "Figure":
    """Active latents of the linear models beside the number of eigenvalues above the noise."""
    from evidentia.studies.harness.figures.base import COLOURS, new_figure, style

    rows: Any = linear_rows(result)
    with style():
        figure = new_figure(
            5.6, 2.4, "Latents counted by their scales; the dashed line is the number of eigenvalues."
        )
        axes = figure.add_subplot()
        axes.barh(rows["family"].str.replace("_", " "), rows["relevant"], color=COLOURS[0])
        axes.axvline(rows["eigenvalues"].iloc[0], linestyle="--", color=COLOURS[1])
        axes.set_xlabel("active latents")
        axes.set_title("Linear decoder, grey digits")
    return figure


def plot_scales(tables: "dict[str, pd.DataFrame]") -> "Figure":
    """The squared scale of each latent against what the eigenvalues say, linear decoder."""
    from evidentia.studies.harness.figures.base import COLOURS, INK, new_figure, style

    with style():
        figure = new_figure(
            6.2,
            3.6,
            "Linear decoder on grey digits: posterior mean of each squared scale, in falling order, for "
            "three laws of the guide. Line: eigenvalue of the sample covariance less the noise variance. "
            "Below the noise the scales fall to the mode of their prior.",
        )
        axes = figure.add_subplot()
        for colour, marker, (family, table) in zip(COLOURS, "osD", tables.items(), strict=False):
            places = range(1, len(table) + 1)
            axes.plot(places, table["squared_scale"], marker, color=colour, label=family.replace("_", " "))
        exact = next(iter(tables.values()))["eigenvalue_less_noise"]
        axes.plot(range(1, int((exact > 0).sum()) + 1), exact[exact > 0], "-", color=INK, linewidth=1)
        axes.set_yscale("log")
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("latent, in falling order")
        axes.set_ylabel("squared scale")
        axes.set_title("Relevance against eigenvalues")
        axes.legend()
    return figure


if __name__ == "__main__":
    run_as_main(__name__)
