"""Which gradient estimator trains discrete latents best?

An autoencoder of black-and-white digits has 16 binary latents, so 65,536 states: few enough to sum over.
Evidence, bound and gradient are therefore exact, and only the training draws at random. Its encoder
q(z | x) = Π_j Bernoulli(σ(θ_j(x))) is trained by eleven estimators of the bound's gradient in θ, with the
same steps and two draws of z for each image (an antithetic pair counts as two). A held-out image loses

    -log p(x)  =  -E_q [log p(x, z) - log q(z | x)]  -  KL(q(z | x) ‖ p(z | x))      nats.

At the parameters of one training all estimators are compared on the same images: their mean squared distance
from the exact gradient, E_q[f(z)(z_j - p_j)], splits into bias² and variance. Score-function estimators have
no bias. Two variances are ordered by the theorem of Rao and Blackwell: DisARM averages ARM given the pair,
and the Rao-Blackwellised straight-through Gumbel estimator averages the plain one given the hard draw.

References:
    Williams, 1992. Simple statistical gradient-following algorithms for connectionist reinforcement learning.
    Mnih and Gregor, 2014. Neural variational inference and learning in belief networks.
    Titsias and Lázaro-Gredilla, 2015. Local expectation gradients for black box variational inference.
    Jang, Gu and Poole, 2017. Categorical reparameterization with Gumbel-softmax.
    Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, 2017. REBAR: low-variance, unbiased gradient estimates
    for discrete latent variable models.
    Grathwohl, Choi, Wu, Roeder and Duvenaud, 2018. Backpropagation through the void.
    Kool, van Hoof and Welling, 2019. Buy 4 REINFORCE samples, get a baseline for free!
    Yin and Zhou, 2019. ARM: augment-REINFORCE-merge gradient for stochastic binary networks.
    Dong, Mnih and Tucker, 2020. DisARM: an antithetic gradient estimator for binary latent variables.
    Paulus, Maddison and Krause, 2021. Rao-Blackwellizing the straight-through Gumbel-softmax gradient
    estimator.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main
from evidentia.studies.harness.handlers import discrete_bound as discrete_bound

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.studies.harness.declare.result import Result

LABELS = {
    "reinforce": "REINFORCE",
    "nvil": "NVIL (learned baseline)",
    "rloo": "leave-one-out",
    "arm": "ARM",
    "disarm": "DisARM",
    "rebar": "REBAR",
    "relax": "RELAX",
    "local": "local expectation",
    "st": "straight-through",
    "st_gumbel": "straight-through (ST) Gumbel",
    "rao_blackwell_st": "Rao-Blackwellised ST Gumbel",
}
BIASED = ("st", "st_gumbel", "rao_blackwell_st")
UNBIASED = tuple(name for name in LABELS if name not in BIASED)
PAIRED = ("arm", "disarm")
SEEDS = 3
TRAIN_ROWS = 1347  # the loss on held-out rows is scaled to the size of the training set
INDEPENDENT_PIXELS = 25.30
"""Test nats of independent Bernoulli pixels, the floor of every table."""


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("autoencoder", "discrete", "gradients", "digits")
    minutes: ClassVar[float] = 4.5

    estimators: tuple[str, ...] = Field(default=tuple(LABELS), min_length=1, description="those that train")
    latent: int = Field(default=16, ge=1, le=20, description="binary latents; all states are summed over")
    num_steps: int = Field(default=1500, ge=1, description="training steps of each autoencoder")
    seeds: int = Field(default=SEEDS, ge=1, description="trainings of each estimator")
    noise_steps: int = Field(default=500, ge=1, description="steps to the parameters of the noise")
    noise_draws: int = Field(default=40, ge=2, description="times 50, gradients drawn of each estimator")
    tuning_steps: int = Field(default=200, ge=0, description="steps that train baselines before the noise")

    def smoke(self) -> "Config":
        """Few latents, few steps, few draws, one seed."""
        return self.replace(
            estimators=("disarm", "st"),
            latent=4,
            num_steps=2,
            seeds=1,
            noise_steps=2,
            noise_draws=2,
            tuning_steps=1,
        )


@register_study
def study(config: Config) -> Study:
    """Eleven estimators by three seeds, and the noise of all of them at the parameters of one training."""
    recorded = "aten" if config.num_steps >= 50 else None  # recording costs more than a few steps
    training = {
        "objective": "discrete",
        "compile": recorded,
        "num_steps": config.num_steps,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "warm_down": 0.25,
        "num_redraws": 5,
        "watch_every": max(1, config.num_steps // 10),
        "watch_repeats": 4,
        "evidence_particles": 100,
        "saved_rows": 20,
    }
    noise = {
        "objective": "discrete",
        "estimator": "disarm",
        "num_steps": config.noise_steps,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "compile": recorded,
        "num_redraws": 5,
        "estimators": tuple(LABELS),
        "repeats": config.noise_draws,
        "tuning_steps": config.tuning_steps,
    }
    halves = {name: 1 if name in PAIRED else 2 for name in config.estimators}
    return Study(
        name="discrete-latents",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("digits"),
        model=Ref("discrete_vae", {"latent": config.latent}),
        inference=Ref("latent", training),
        metrics=("enumerated_bound",),
        seed=config.seed,
        seeds=config.seeds,
        grid=(
            *(
                {"inference.estimator": (name,), "inference.num_particles": (count,)}
                for name, count in halves.items()
            ),
            {"inference": (Ref("gradient_noise", noise),)},
        ),
        expect=claims(config),
    )


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts at full size: what theory guarantees, and leads that every seed shows."""
    full = Config()
    effort = ("num_steps", "seeds", "noise_steps", "noise_draws", "tuning_steps")
    if config.estimators != full.estimators or config.latent != full.latent:
        return ()
    if any(getattr(config, key) < getattr(full, key) for key in effort):
        return ()
    measured = {"kind": "exact"}  # the rows of the gradients
    trained = {"kind": "lower bound"}

    def lead(quiet: str, noisy: str, why: str) -> Claim:
        return Claim(
            text=f"variance: {LABELS[quiet]} below {LABELS[noisy]} ({why})",
            metric="variance",
            where={**measured, "estimator": quiet},
            reduce="mean",
            op="<",
            than={**measured, "estimator": noisy},
        )

    return (
        Claim(
            text="the score-function estimators have no bias: largest |z| below 4.5 at every seed",
            metric="largest_z",
            where={**measured, "estimator": UNBIASED},
            op="<",
            value=4.5,
        ),
        Claim(
            text="the straight-through estimators are biased, by more than a tenth of the gradient",
            metric="relative_bias",
            where={**measured, "estimator": BIASED},
            op=">",
            value=0.1,
        ),
        lead("disarm", "arm", "theory"),
        lead("rao_blackwell_st", "st_gumbel", "theory"),
        lead("rloo", "reinforce", "measured"),
        lead("local", "disarm", "measured"),
        Claim(
            text="every autoencoder's bound beats independent pixels (25.30 nats)",
            metric="bound_nats",
            where=trained,
            op="<",
            value=INDEPENDENT_PIXELS,
        ),
        Claim(
            text="REINFORCE without a baseline trains worst, at every seed",
            metric="bound_nats",
            where={**trained, "estimator": "reinforce"},
            op=">",
            than=trained,
        ),
        Claim(
            text="DisARM beats straight-through at every seed",
            metric="bound_nats",
            where={**trained, "estimator": "disarm"},
            op="<",
            than={**trained, "estimator": "st"},
        ),
    )


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def trained(table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of the autoencoders, one for each estimator and seed."""
    rows: Any = table.dropna(subset=["bound_nats"])
    return rows


def noise(table: "pd.DataFrame") -> "pd.DataFrame":
    """Bias and variance of each estimator, averaged over the seeds, in the order of `LABELS`."""
    rows: Any = table.dropna(subset=["largest_z"])
    columns = ["bias_squared", "variance", "relative_bias", "snr", "evaluations"]
    means: Any = rows.groupby("estimator", sort=False)[columns].mean()
    means["largest_z"] = rows.groupby("estimator")["largest_z"].max()
    return means


def conclude(result: "Result") -> list[str]:
    """The answer in words: the scores of the trained models, then noise and bias of their gradients."""
    rows = trained(result.table)
    sentences = []
    for name, part in sorted(rows.groupby("estimator"), key=lambda each: each[1]["bound_nats"].mean()):
        sentences.append(
            f"{LABELS[str(name)]}: bound {part['bound_nats'].mean():.2f} nats per held-out image (seeds "
            f"{part['bound_nats'].min():.2f} to {part['bound_nats'].max():.2f}; ± "
            f"{part['bound_nats_se'].mean():.2f} for the choice of images), evidence "
            f"{part['exact_nats'].mean():.2f}."
        )
    for key, row in noise(result.table).iterrows():
        name = str(key)
        bias = (
            f"bias of {100 * row['relative_bias']:.0f} % of the gradient"
            if name in BIASED
            else f"no bias seen (largest |z| {row['largest_z']:.1f})"
        )
        sentences.append(
            f"{LABELS[name]}: variance {row['variance']:.3g} nats² for {row['evaluations']:.0f} decoder "
            f"runs, {bias}."
        )
    return sentences


def diagnose(result: "Result") -> "dict[str, Figure]":
    """The held-out bound while training, the final scores, and the noise of the gradients."""
    import pandas as pd

    from evidentia.studies.harness.figures.estimators import plot_noise, plot_training

    watched = []
    for point in result.points:
        if point.inference.key == "latent":
            table = result.read(point, "watched").assign(estimator=point.inference.params["estimator"])
            watched.append(table)
    return {
        "training": plot_training(pd.concat(watched, ignore_index=True), LABELS, rows=TRAIN_ROWS),
        "scores": plot(result.table),
        "noise": plot_noise(noise(result.table), LABELS, biased=BIASED),
    }


def plot(result: "pd.DataFrame") -> "Figure":
    """Held-out bound and evidence of every seed, one line for each estimator, the best on top."""
    from evidentia.studies.harness.figures.estimators import plot_scores

    return plot_scores(trained(result), LABELS)


if __name__ == "__main__":
    run_as_main(__name__)
