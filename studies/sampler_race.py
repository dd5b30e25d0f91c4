"""Which sampler gives the most effective draws per second, and which can be believed?

Seven kernels of the library, and Pyro's NUTS, meet four posteriors whose moments are known: eight schools in
the non-centred form, a hierarchical logistic regression with 25 coordinates, a Gaussian in 100 dimensions
with condition number 10^4, and Neal's funnel in its centred form, which no sampler here draws rightly and
every sampler must be caught at. Two more parts ask what a further chain costs, and what becomes of many
chains that start far out.

Seconds are CPU seconds of one process; "cold" has the compilation of the density, the start and the warm-up
in it, "warm" all but the compilation. What the first compilation of a process loads is paid before.
Everything is in double precision. Kernels of one step are thinned, so that their draws cost about what those
of a path cost. Pyro's NUTS runs one short chain, because it is slow: its rates are rough, and its draws too
few to pass. NumPyro's NUTS joins where it is installed (``pip install numpyro``); otherwise a row says so.

References:
    Hoffman, Radul and Sountsov, 2021. An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian
    Monte Carlo.
    Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman, 2024. Nested R-hat: assessing the
    convergence of Markov chain Monte Carlo when running many short chains.
    Neal, 2003. Slice sampling.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evidentia.studies.harness import Claim, Ref, Study, StudyConfig, register_study, run_as_main

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from evidentia.studies.harness.declare.result import Result

FUNNEL = "neal_funnel"
POSTERIORS: dict[str, tuple[Ref, str]] = {
    "eight_schools": (Ref("eight_schools"), "eight schools, D = 10"),
    "hierarchical_logistic": (Ref("breast_cancer"), "logistic, D = 25"),
    "correlated_gaussian": (Ref("gaussian_factor"), "Gaussian, D = 100"),
    FUNNEL: (Ref("few_numbers", {"values": (0.0,) * 9}), "centred funnel, D = 10"),
}
CHAINS: Mapping[str, int] = {"correlated_gaussian": 208}
"""Twice the dimension, where that is more than `Config.num_chains`."""
PATHS = ("hmc", "mams")
STEPS = ("mala", "barker", "random_walk", "meads", "mclmc")
LABELS: dict[str, str] = {
    "hmc": "HMC, adapted length",
    "mams": "MAMS",
    "meads": "MEADS",
    "mclmc": "MCLMC (unadjusted)",
    "mala": "MALA",
    "barker": "Barker",
    "random_walk": "random walk",
    "nuts": "Pyro NUTS, 1 chain",
    "numpyro_nuts": "NumPyro NUTS, 4 chains",
}
NUTS_DRAWS: Mapping[str, int] = {"eight_schools": 150, "hierarchical_logistic": 75, FUNNEL: 75}
"""Draws of Pyro's NUTS, and as many transitions before; 40 where none are named."""
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Config(StudyConfig):
    """The keys of this study."""

    tags: ClassVar[tuple[str, ...]] = ("sampling", "kernels", "exact")
    minutes: ClassVar[float] = 2.6

    posteriors: tuple[str, ...] = Field(
        default=tuple(POSTERIORS), min_length=1, description="of the list POSTERIORS"
    )
    paths: tuple[str, ...] = Field(default=PATHS, description="kernels whose transition is a path")
    steps: tuple[str, ...] = Field(default=STEPS, description="kernels whose transition is one step")
    peers: tuple[str, ...] = Field(default=("nuts", "numpyro_nuts"), description="samplers of others")
    counts: tuple[int, ...] = Field(default=COUNTS, description="numbers of chains, eight schools")
    far_chains: int = Field(default=128, ge=0, description="chains started far out; 0 leaves that part out")
    num_chains: int = Field(default=128, ge=1, description="chains of the race")
    num_draws: int = Field(default=200, ge=4, description="draws kept of each chain")
    warmup_steps: int = Field(default=150, ge=1, description="transitions before; twice as many of one step")
    thinning: int = Field(default=5, ge=1, description="of kernels of one step")
    peer_draws: float = Field(default=1.0, gt=0, description="factor on the draws of Pyro's NUTS")

    def smoke(self) -> "Config":
        """Two posteriors, two kernels, few draws."""
        return self.replace(
            posteriors=("eight_schools", FUNNEL),
            paths=("hmc",),
            steps=("mclmc",),
            peers=("numpyro_nuts",),
            counts=(8,),
            far_chains=0,
            num_chains=32,
            num_draws=20,
            warmup_steps=10,
            thinning=1,
        )


@register_study
def study(config: Config) -> Study:
    """A race on every posterior, the number of chains, and two starts of many chains."""
    return Study(
        name="sampler-race",
        description=__doc__.partition("\n")[0],
        tags=Config.tags,
        data=Ref("eight_schools"),
        model=Ref("eight_schools"),
        inference=Ref(
            "sampler_race",
            {
                "num_chains": config.num_chains,
                "num_draws": config.num_draws,
                "warmup_steps": config.warmup_steps,
            },
        ),
        seed=config.seed,
        grid=tuple(_blocks(config)),
        expect=claims(config),
    )


def _blocks(config: Config) -> "list[dict[str, Any]]":
    """The blocks of the grid."""
    blocks: list[dict[str, Any]] = []
    for name in config.posteriors:
        where: dict[str, Any] = {"data": (POSTERIORS[name][0],), "model": (Ref(name),)}
        where["inference.part"] = ("race",)
        ours: dict[str, Any] = {"inference.num_chains": (max(config.num_chains, CHAINS.get(name, 0)),)}
        if name == FUNNEL:
            ours["inference.path"] = ("v",)
        if config.paths:
            blocks.append(where | ours | {"inference.kernel": config.paths})
        if config.steps:
            longer = {
                "inference.warmup_steps": (2 * config.warmup_steps,),
                "inference.thinning": (config.thinning,),
            }
            blocks.append(where | ours | longer | {"inference.kernel": config.steps})
        for peer in config.peers:
            draws = max(4, int(config.peer_draws * NUTS_DRAWS.get(name, 40))) if peer == "nuts" else 1000
            blocks.append(
                where
                | {
                    "inference.kernel": (peer,),
                    "inference.num_chains": (1 if peer == "nuts" else 4,),
                    "inference.num_draws": (draws,),
                    "inference.warmup_steps": (draws,),
                }
            )
    if config.counts:
        blocks.append({"inference.part": ("chains",), "inference.num_chains": config.counts})
    if config.far_chains:
        blocks.append(
            {
                "data": (POSTERIORS["hierarchical_logistic"][0],),
                "model": (Ref("hierarchical_logistic"),),
                "inference.part": ("start",),
                "inference.num_chains": (config.far_chains,),
                "inference.start": ("uniform", "smc"),
            }
        )
    return blocks


def claims(config: Config) -> tuple[Claim, ...]:
    """What the study asserts at full size."""
    full = Config()
    if any(getattr(config, key) != value for key, value in full if key != "seed"):
        return ()
    return (
        Claim(
            text="whoever passes every check has the right moments, within five standard errors",
            metric="largest_z",
            where={"part": "race", "passed": 1},
            op="<",
            value=5.0,
        ),
        Claim(
            text="the centred funnel is flagged for every sampler",
            metric="passed",
            where={"part": "race", "model": FUNNEL, "available": 1},
            op="==",
            value=0,
        ),
        Claim(
            text="a sampler without an accept step never passes",
            metric="passed",
            where={"unadjusted": 1},
            op="==",
            value=0,
        ),
        *(
            _faster("hmc", "nuts", name, 20.0)
            for name in ("eight_schools", "hierarchical_logistic", "correlated_gaussian")
        ),
        _faster("hmc", "random_walk", "correlated_gaussian", 10.0),
        _faster("hmc", "random_walk", "hierarchical_logistic", 4.0),
        _faster("hmc", "mala", "correlated_gaussian", 4.0),
        _faster("mams", "mala", "correlated_gaussian", 3.0),
        Claim(
            text="128 chains of the logistic regression that start from tempered particles pass",
            metric="passed",
            where={"part": "start", "start": "smc"},
            op="==",
            value=1,
        ),
        Claim(
            text="1,024 chains give more than 30 times the effective draws per second of one chain",
            metric="log10_rate",
            where={"part": "chains", "num_chains": 1024},
            than={"part": "chains", "num_chains": 1},
            op=">",
            value=math.log10(30),
        ),
    )


def _faster(one: str, other: str, model: str, ratio: float) -> Claim:
    """That one sampler has more than `ratio` times the effective draws per second of another."""
    where = {"part": "race", "model": model}
    return Claim(
        text=f"{model}: {LABELS[one]} has more than {ratio:g} times the rate of {LABELS[other]}",
        metric="log10_rate",
        where=where | {"sampler": one},
        than=where | {"sampler": other},
        op=">",
        value=math.log10(ratio),
    )


def run(config: Config) -> "pd.DataFrame":
    """The result table, computed in this process without files."""
    return study(config).run().table


def part_of(table: "pd.DataFrame", part: str) -> "pd.DataFrame":
    """The rows of one part that have draws, with a column `posterior` for their names."""
    rows: Any = table[(table["part"] == part) & (table["available"] == 1)].copy()
    rows["posterior"] = rows["model"].map({name: label for name, (_, label) in POSTERIORS.items()})
    return rows


def conclude(result: "Result") -> list[str]:
    """The answer in words."""
    race: Any = part_of(result.table, "race")
    sentences = []
    for name, rows in race.groupby("posterior", sort=False):
        order = rows.sort_values("ess_per_second", ascending=False)
        text = ", ".join(
            f"{LABELS[row.sampler]} {row.ess_per_second:.3g}" + ("" if row.passed else f" ({row.flags})")
            for row in order.itertuples()
        )
        sentences.append(f"{name}, effective draws per cold CPU second (failed checks): {text}.")
    starts: Any = part_of(result.table, "start")
    for row in starts.itertuples():
        state = "passes" if row.passed else f"fails {row.flags}"
        sentences.append(
            f"{int(row.chains)} chains of the logistic regression, start {row.start!r}: R-hat "
            f"{row.r_hat:.3f}, {state}."
        )
    absent = result.table[result.table["available"] == 0]
    if len(absent):
        sentences.append(f"Not in the race: {'; '.join(dict.fromkeys(absent['notice']))}.")
    return sentences


def diagnose(result: "Result") -> "dict[str, Figure]":
    """The race, the cost of chains, and draws of the funnel."""
    from evidentia.studies.harness.figures.samplers import plot_chains, plot_funnel

    figures = {"race": plot(result.table)}
    counts: Any = part_of(result.table, "chains")
    if len(counts):
        figures["chains"] = plot_chains(counts)
    funnel: Any = part_of(result.table, "race")
    funnel = funnel[funnel["model"] == FUNNEL]
    paths = {
        LABELS[row.sampler]: result.read(row.point, "path")
        for row in funnel.itertuples()
        if row.sampler in PATHS + STEPS
    }
    if paths:
        figures["funnel"] = plot_funnel(paths)
    return figures


def plot(result: "pd.DataFrame") -> "Figure":
    """Effective draws per second, a panel for each posterior."""
    from evidentia.studies.harness.figures.samplers import plot_race

    return plot_race(part_of(result, "race"), LABELS)


if __name__ == "__main__":
    run_as_main(__name__)
