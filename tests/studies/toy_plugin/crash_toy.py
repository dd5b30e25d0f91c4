"""A small study for the crash trials: Adam on a noisy quadratic, in plain torch, with checkpoints."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy

from evidentia.studies.harness.data.dataset import make_dataset
from evidentia.studies.harness.declare.config import StudyConfig
from evidentia.studies.harness.declare.registry import datasets, inferences, metrics, register_study
from evidentia.studies.harness.declare.study import Claim, Study
from evidentia.studies.harness.engine.outcome import Outcome, Stopped
from evidentia.studies.harness.errors import NumericalFailure
from evidentia.studies.harness.terminal.trend import ProgressEvent


class Config(StudyConfig):
    """The keys of the toy."""

    steps: int = 40
    rate: float = 0.05
    widths: tuple[int, ...] = (3,)
    behaviours: tuple[str, ...] = ("good",)
    every: int = 5
    claim: float = 1e9

    def smoke(self) -> "Config":
        return self.replace(steps=3)


@datasets.register("crash_data")
def toy_data():
    """Twelve rows of noise, or a file's, to have data that can change."""
    generator = numpy.random.default_rng(int(os.environ.get("TOY_DATA", "0")))
    return make_dataset(generator.normal(size=(12, 2)), generator.normal(size=12), ["a", "b"])


@inferences.register("crash_adam")
def toy_adam(problem, params, context):
    """Minimise ``|w - target + noise|^2`` with Adam; the noise comes from torch's generator."""
    import torch

    width, steps = params["width"], params["steps"]
    # What a trial does to the process is no setting: the points must keep their ids and seeds.
    drop, pause = os.environ.get("TOY_DROP"), float(os.environ.get("TOY_PAUSE", "0"))
    fail_at = int(os.environ.get("TOY_FAIL_AT", "0"))
    misbehave(params["behaviour"])
    target = torch.arange(1.0, width + 1)
    w = torch.zeros(width, requires_grad=True)
    optimiser = torch.optim.Adam([w], lr=params["rate"])
    losses: list[float] = []
    state = context.resumed_state()
    if state is not None:
        with torch.no_grad():
            w.copy_(state["param/w"])
        # The mutants of the resume oracle leave one part of the state out.
        if drop != "optimiser":
            moments = {
                "step": state["opt/w/step"],
                "exp_avg": state["opt/w/avg"],
                "exp_avg_sq": state["opt/w/sq"],
            }
            groups = [dict(state["opt/groups"][0], params=[0])]
            optimiser.load_state_dict({"state": {0: moments}, "param_groups": groups})
        if drop != "rng":
            torch.set_rng_state(state["rng/torch"])
        losses = state["losses"].tolist()

    def save() -> None:
        if context.checkpoint is None:
            return
        moments = optimiser.state[w]
        groups = [{k: v for k, v in optimiser.param_groups[0].items() if k != "params"}]
        context.checkpoint.save(
            {
                "param/w": w,
                "opt/w/step": moments["step"],
                "opt/w/avg": moments["exp_avg"],
                "opt/w/sq": moments["exp_avg_sq"],
                "opt/groups": groups,
                "rng/torch": torch.get_rng_state(),
                "losses": torch.tensor(losses, dtype=torch.float64),
                "step": len(losses),
            }
        )

    while len(losses) < steps:
        optimiser.zero_grad()
        loss = ((w - target + 0.3 * torch.randn(width)) ** 2).sum()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if len(losses) == fail_at:
            raise RuntimeError("the planted fault")
        if len(losses) == 12 and "TOY_DELETE" in os.environ:
            shutil.rmtree(os.environ["TOY_DELETE"])
        time.sleep(pause)
        context.report(ProgressEvent(step=len(losses), total=steps, elbo=-losses[-1]))
        if context.should_stop():
            save()
            raise Stopped(len(losses))
        if context.checkpoint_due(len(losses)):
            save()
    weights = {"w": w.detach().clone(), "losses": torch.tensor(losses, dtype=torch.float64)}
    return Outcome(rows=[{"loss": losses[-1], "width": width}], weights=weights)


def misbehave(behaviour):
    """Do what the trial asks for: raise, fail numerically, or kill the process."""
    if "TOY_STARTS" in os.environ:
        with open(os.environ["TOY_STARTS"], "a", encoding="utf-8") as stream:
            stream.write("start\n")
    if behaviour == "raise":
        raise RuntimeError("the planted fault")
    if behaviour == "nan":
        raise NumericalFailure("site 'obs': the loss is not finite at step 1")
    if behaviour == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour.startswith("once:"):
        marker = Path(behaviour[5:])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@metrics.register("crash_last")
def toy_last(outcome, problem):
    """The mean of the last five losses."""
    return {"late_loss": float(outcome.weights["losses"][-5:].mean())}


@register_study
def study(config=None):
    """Declare the toy."""
    shared = {"steps": config.steps, "rate": config.rate}
    return Study(
        name="crash-toy",
        description="a toy",
        data="crash_data",
        inference={"key": "crash_adam", "params": shared},
        grid={"inference.width": config.widths, "inference.behaviour": config.behaviours},
        metrics=("crash_last",),
        seed=config.seed,
        checkpoint_every=config.every,
        expect=(Claim(text="small loss", metric="loss", op="<", value=config.claim),),
    )
