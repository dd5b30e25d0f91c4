"""Are the posteriors right?

If parameters and data are drawn from a model, the true parameters are one more draw from the posterior of
those data: their rank among L posterior draws is uniform on 0 … L, whatever the model. Here 200 data sets
are drawn from each of three models, and the ranks of all parameters, of the log likelihood and of the log
prior are tested: three gradient kernels, exact draws where the posterior is known, and four planted defects.
Two are in the model that is sampled (prior scales 10 % too wide, a Jacobian of the wrong sign), one in the
accept ratio of a kernel (momentum at the end 5 % too long), and one is a guide of independent normals for a
posterior whose parameters are correlated.

A method is called wrong when the smallest p-value over its quantities, after Holm's correction, is below
0.05. Ten of the methods are right, so that one of them may be flagged by chance; the claims about them are
therefore made at 0.05 / 10. No defect found means none of a size that 200 data sets show, not that there is
none.

References:
    Cook, Gelman and Rubin, 2006. Validation of software for Bayesian models using posterior quantiles.
    Talts, Betancourt, Simpson, Vehtari and Gelman, 2018. Validating Bayesian inference algorithms with
    simulation-based calibration.
    Säilynoja, Bürkner and Vehtari, 2022. Graphical test for discrete uniformity and its applications in
    goodness-of-fit evaluation and multiple sample comparison.
    Modrák et al., 2023. Simulation-based calibration checking for Bayesian computation: the choice of test
    quantities shapes sensitivity.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main
from evidentia.studies.harness.declare.registry import datasets, models

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.studies.harness.data.dataset import Dataset
    from evidentia.studies.harness.declare.result import Result
    from evidentia.studies.harness.handlers.calibration_cases import CalibrationCase

KERNELS = ("hmc", "mala", "barker")
LEVEL, RIGHT = 0.05, 10
"""Chance that a right method is flagged, and how many right methods there are."""
LABELS = {
    "sbc_schools": "schools",
    "sbc_logistic": "logistic",
    "sbc_linear": "linear",
    "hmc": "HMC",
    "mala": "MALA",
    "barker": "Barker",
    "exact": "exact draws",
    "mean_field": "independent normals",
    "defective_hmc": "accept ratio",
}


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("calibration", "mcmc", "synthetic")
    minutes: ClassVar[float] = 1.0

    kernels: tuple[str, ...] = Field(default=KERNELS, description="kernels to test")
    num_datasets: int = Field(default=200, ge=10, description="data sets drawn from each model")
    num_draws: int = Field(default=104, ge=2, description="posterior draws that a truth is ranked among")
    chains_per_dataset: int = Field(default=8, ge=1, description="chains for each data set")
    warmup_steps: int = Field(default=100, ge=0, description="transitions before the first draw")
    pilot_steps: int = Field(default=100, ge=2, description="transitions of each adaptation")
    thinning: int | None = Field(
        default=None, ge=1, description="transitions between draws; searched if None"
    )

    def smoke(self) -> "Config":
        """One kernel, ten data sets, few draws."""
        return self.replace(
            kernels=("mala",),
            num_datasets=10,
            num_draws=4,
            chains_per_dataset=2,
            warmup_steps=2,
            pilot_steps=2,
            thinning=1,
        )


@datasets.register("sbc_design")
def sbc_design(rows: int = 30, columns: int = 20, common: float = 0.8) -> "Dataset":
    """Columns of covariates that share a part; responses are drawn by the study.

    Args:
        rows: of the design.
        columns: of the design.
        common: weight of the shared part, the square root of their correlation.
    """
    import numpy

    from evidentia.studies.harness.data.dataset import make_dataset

    noise = numpy.random.RandomState(0).randn(rows, columns + 1)
    x = common * noise[:, :1] + (1.0 - common**2) ** 0.5 * noise[:, 1:]
    return make_dataset(x, None, [f"x{index}" for index in range(columns)])


@models.register("sbc_schools")
def sbc_schools(data: "Dataset", prior_scale: float = 1.0, jacobian: str = "right") -> "CalibrationCase":
    """Eight schools, non-centred; ten parameters.

    Args:
        data: not used.
        prior_scale: multiplies the prior scales of the model that is sampled.
        jacobian: "wrong" turns its sign in the model that is sampled.
    """
    from evidentia.studies.harness.handlers.calibration_cases import schools_case

    return schools_case(prior_scale, jacobian)


@models.register("sbc_logistic")
def sbc_logistic(data: "Dataset", columns: int = 3) -> "CalibrationCase":
    """Logistic regression on the first columns.

    Args:
        data: covariates.
        columns: how many are used.
    """
    from evidentia.studies.harness.handlers.calibration_cases import logistic_case

    return logistic_case(data.x[:, :columns])


@models.register("sbc_linear")
def sbc_linear(data: "Dataset") -> "CalibrationCase":
    """Linear regression with a known posterior on all columns.

    Args:
        data: covariates.
    """
    from evidentia.studies.harness.handlers.calibration_cases import linear_case

    return linear_case(data.x)


@register_study
def study(config: Config) -> Study:
    """Three kernels and exact draws on three models, and four planted defects."""
    effort: dict[str, Any] = {
        "level": LEVEL,
        "num_datasets": config.num_datasets,
        "num_draws": config.num_draws,
        "chains_per_dataset": config.chains_per_dataset,
        "warmup_steps": config.warmup_steps,
        "pilot_steps": config.pilot_steps,
        "thinning": config.thinning,
    }
    if config.num_datasets < 50:
        effort["executor"] = "fx"  # generating code costs more than a few steps
    right, first = {"model.prior_scale": (1.0,), "model.jacobian": ("right",)}, config.kernels[:1]
    return Study(
        name="sbc",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("sbc_design"),
        model=Ref("sbc_schools"),
        inference=Ref("sbc", effort),
        seed=config.seed,
        grid=(
            {**right, "inference.method": config.kernels},
            {"model": (Ref("sbc_logistic"),), "inference.method": config.kernels},
            {
                "model": (Ref("sbc_linear"),),
                "inference.method": (*config.kernels, "exact", "mean_field", "defective_hmc"),
            },
            {**right, "model.prior_scale": (1.1,), "inference.method": first},
            # Without its Jacobian the density has no finite mass: chains drift, no thinning helps, and
            # trajectories would grow with the drift.
            {
                **right,
                "model.jacobian": ("wrong",),
                "inference.method": ("mala",),
                "inference.thinning": (config.thinning or 8,),
            },
        ),
        expect=claims(config),
    )


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts at full size: right methods pass, planted defects are caught."""
    full = Config()
    effort = ("num_datasets", "num_draws", "chains_per_dataset", "warmup_steps", "pilot_steps")
    if config.kernels != KERNELS or any(getattr(config, key) < getattr(full, key) for key in effort):
        return ()

    def passes(text: str, **where: Any) -> Claim:
        # One level for all right methods together.
        return Claim(text=text, metric="p_value", where=where, op=">", value=LEVEL / RIGHT)

    def fails(text: str, **where: Any) -> Claim:
        return Claim(text=text, metric="p_value", where=where, op="<", value=LEVEL)

    right = {"prior_scale": 1.0, "jacobian": "right"}
    return (
        *(
            passes(
                f"{LABELS[name]} on eight schools is calibrated", model="sbc_schools", method=name, **right
            )
            for name in KERNELS
        ),
        *(
            passes(f"{LABELS[name]} on {LABELS[model]} regression is calibrated", model=model, method=name)
            for model in ("sbc_logistic", "sbc_linear")
            for name in KERNELS
        ),
        passes("exact draws are calibrated", method="exact"),
        fails("prior scales 10 % too wide are caught", prior_scale=1.1),
        fails("a Jacobian of the wrong sign is caught", jacobian="wrong"),
        fails("an accept ratio with momenta 5 % too long is caught", method="defective_hmc"),
        fails("independent normals on a correlated posterior are caught", method="mean_field"),
        Claim(
            text="and they are called what they are: under-dispersed",
            metric="verdict",
            where={"method": "mean_field"},
            op="==",
            value="under-dispersed",
        ),
    )


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def label(row: "pd.Series[Any]") -> str:
    """Model and method of a row, with its defect."""
    name = f"{LABELS[str(row['model'])]}: {LABELS.get(str(row['method']), str(row['method']))}"
    if row.get("prior_scale") == 1.1:
        return f"{name}, prior x 1.1"
    return f"{name}, Jacobian" if row.get("jacobian") == "wrong" else name


def conclude(result: "Result") -> list[str]:
    """One sentence for each method."""
    sentences = []
    for _, row in result.table.iterrows():
        if row["calibrated"]:
            found = "no defect found"
        else:
            found = f"not calibrated ({row['verdict']}, clearest in {row['quantity']})"
        sentences.append(
            f"{label(row)}: {found}; adjusted p {row['p_value']:.2g}, coverage off by "
            f"{row['coverage_error']:.2f} at most."
        )
    return sentences


def diagnose(result: "Result") -> "dict[str, Figure]":
    """ECDF differences of every method, coverage curves, and the p-values."""
    from evidentia.studies.harness.figures.calibration import plot_coverage, plot_ecdf_differences

    labels = {row["point"]: label(row) for _, row in result.table.iterrows()}
    return {
        "ecdf": plot_ecdf_differences({name: result.read(point, "curves") for point, name in labels.items()}),
        "coverage": plot_coverage({name: result.read(point, "intervals") for point, name in labels.items()}),
    }


if __name__ == "__main__":
    run_as_main(__name__)
