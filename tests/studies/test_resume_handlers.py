"""Every kind of inference, stopped by a signal and resumed, gives the bytes of an uninterrupted run."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from evidentia.studies.harness.data.dataset import make_dataset
from evidentia.studies.harness.declare.registry import datasets, guides, models
from evidentia.studies.harness.declare.study import Study
from evidentia.studies.harness.engine.run import RunResult, run_study

pytestmark = [pytest.mark.dist, pytest.mark.slow]


def data():
    random = numpy.random.default_rng(1)
    x = random.normal(size=(30, 3))
    return make_dataset(x, x @ [1.0, -0.5, 0.0] + 0.5 * random.normal(size=30), ["a", "b", "c"])


def regression(data):
    import pyro
    from pyro.distributions import Normal

    def model(x, y=None):
        w = pyro.sample("w", Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("data", len(x)):
            return pyro.sample("obs", Normal((w.unsqueeze(-2) * x).sum(-1), 0.5), obs=y)

    return model


def normal_guide(model):
    from pyro.infer.autoguide import AutoNormal

    return AutoNormal(model)


def subsets(data):
    from evidentia.models.regression import GPrior, SubsetRegression

    return SubsetRegression(data.names, GPrior())


def family(data):
    from evidentia.models.likelihood import Gaussian
    from evidentia.models.structure.family import Family
    from evidentia.models.structure.ops import GLM, Constant

    ops = {"one": Constant(), "tanh": GLM(activation="tanh")}
    return Family(data.names).edge("x", "f", ops=ops).model(likelihood=Gaussian(scale=0.5))


BOUNDS = {"num_steps": 60, "evidence_particles": 10, "evidence_batches": 3, "num_draws": 10}
CHAIN = {"num_draws": 20, "warmup_steps": 15, "num_chains": 1, "prior_draws": 20}
SWEEPS = {"num_sweeps": 40, "warmup_sweeps": 5, "num_chains": 2}
# trial -> inference, model, parameters, report at which SIGTERM comes, steps between checkpoints
TRIALS = {
    "svi": ("svi", "trial_regression", {"num_steps": 60, "num_draws": 50, "prior_draws": 20}, 33, 10),
    "nuts": ("nuts", "trial_regression", CHAIN, 27, 4),
    "nuts in warm-up": ("nuts", "trial_regression", CHAIN, 11, 4),
    "enumerate": ("enumerate", "trial_family", {"evidence": "elbo", **BOUNDS}, 33, 10),
    "gibbs": ("structure_gibbs", "trial_subsets", SWEEPS, 23, 5),
}


@pytest.fixture
def study(registries: None) -> Callable[[str], Study]:
    datasets.add("trial_data", data)
    guides.add("trial_guide", normal_guide)
    for key, builder in {
        "trial_regression": regression,
        "trial_subsets": subsets,
        "trial_family": family,
    }.items():
        models.add(key, builder)

    def declare(trial: str) -> Study:
        kind, model, params, _, every = TRIALS[trial]
        return Study(
            name=f"trial-{kind.replace('_', '-')}",
            data="trial_data",
            model=model,
            guide="trial_guide" if kind == "svi" else None,
            inference={"key": kind, "params": params},
            checkpoint_every=every,
        )

    return declare


class Stopper:
    """A reporter that sends SIGTERM to this process at the n-th report."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.notices: list[str] = []

    def start(self, header, total_points):
        pass

    def update(self, event):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    def notice(self, message):
        self.notices.append(message)

    def finish(self, verdict):
        pass


def files(ended: RunResult) -> dict[str, bytes]:
    """The bytes of the results of the only point, without what holds a time."""
    assert ended.folder is not None
    (point,) = (ended.folder / "points").iterdir()
    kept = [path for path in point.rglob("*") if path.suffix in (".nc", ".safetensors", ".csv")]
    return {
        path.name: path.read_bytes()
        for path in kept
        if path.parent.name != "ckpt" and path.name != "metrics.csv"
    }


@pytest.mark.parametrize("flipped", [False, True], ids=["stopped", "stopped and spoiled"])
@pytest.mark.parametrize("trial", TRIALS)
def test_resumed_run_has_the_bytes_of_an_uninterrupted_one(
    study: Callable[[str], Study], tmp_path: Path, trial: str, flipped: bool
) -> None:
    whole = run_study(study(trial), out=tmp_path / "whole")
    assert whole.exit_code == 0
    out = tmp_path / "run"
    stopped = run_study(study(trial), out=out, reporter=Stopper(TRIALS[trial][3]))
    assert stopped.exit_code == 143
    assert not list(out.rglob("DONE"))
    found = sorted(out.glob("points/*/ckpt/*.safetensors"), key=lambda path: int(path.stem[5:]))
    assert len(found) == 2
    if flipped:
        spoiled = bytearray(found[-1].read_bytes())
        spoiled[-1] ^= 1
        found[-1].write_bytes(bytes(spoiled))
    torch.manual_seed(99)
    reporter = Stopper(10**9)
    resumed = run_study(study(trial), out=out, resume=True, reporter=reporter)
    assert resumed.exit_code == 0
    assert any("checksum mismatch" in line for line in reporter.notices) == flipped
    first, second = files(whole), files(resumed)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    table = whole.result.table.drop(columns="seconds")
    assert table.equals(resumed.result.table.drop(columns="seconds"))
