"""Effective draws per second on eight posteriors: `sample` beside Pyro's NUTS, and beside NumPyro's.

Every run has a process of its own. A row counts only if R-hat (of short chains the nested one) is below 1.01
and every mean and standard deviation agrees with a long independent run (`references.json`, NumPyro in double
precision; exact for the Gaussian) within 5 joint Monte-Carlo errors; otherwise its ratio is 0.

Effective draws are the least bulk effective sample size over all scalars. Times are wall times after the
imports; "cold" has tracing and compilation in it, "warm" is a second run of what is compiled already.

NumPyro is measured where `EVIDENTIA_PEERS` names interpreters that have it (separated by ":"); a ratio
names the version. It runs its defaults, 4 chains of 1,000 + 1,000, and 64 chains of 500 + 500 vectorised.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.posteriors import DATA
from benchmarks.ratio import Ratio

FLOOR, AIM = 50, 100  # times Pyro's NUTS, each posterior
PEER_FLOOR, PEER_AIM, VECTORISED_AIM = 8, 20, 3  # times NumPyro's NUTS, geometric mean
HERE = Path(__file__).parent
ROOT = HERE.parent


def call(*command: str, seconds: int = 3600) -> dict[str, Any]:
    """The JSON that a run prints."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def here(sampler: str, name: str) -> dict[str, Any]:
    """A run of this environment."""
    return call(sys.executable, "-m", "benchmarks.sampler_run", sampler, name)


def numpyro(python: str, name: str, *options: str) -> dict[str, Any]:
    """A run of a peer's environment."""
    return call(python, str(HERE / "peers" / "numpyro_nuts.py"), name, *options)


def largest_z(name: str, moments: dict[str, Any]) -> float:
    """Largest distance of a mean or standard deviation from the reference, in joint errors."""
    if name == "gaussian":
        factor = DATA[name]()["factor"]
        sd = (factor @ factor.T).diagonal() ** 0.5
        truth = {"x": {"mean": [0.0] * len(sd), "sd": sd.tolist(), "mean_mcse": [0.0] * len(sd)}}
    else:
        truth = json.loads((HERE / "references.json").read_text())[name]["sites"]
    worst = 0.0
    for site, own in moments.items():
        other = {key: flat(value) for key, value in truth[site].items()}
        zero = [0.0] * len(own["mean"])
        for what in ("mean", "sd"):
            errors = zip(own[f"{what}_mcse"], other.get(f"{what}_mcse", zero), strict=True)
            pairs = zip(own[what], other[what], errors, strict=True)
            worst = max(worst, *(abs(a - b) / math.hypot(*error) for a, b, error in pairs))
    return worst


def flat(value: Any) -> list[float]:
    """A nested list as a flat one."""
    return [one for each in value for one in flat(each)] if isinstance(value, list) else [value]


def ratio(question: str, ours: dict[str, Any], peer: dict[str, Any], key: str, target: float) -> Ratio:
    """Seconds for one effective draw, ours beside the peer's; infinite if ours does not count."""
    own = ours[key] / ours["ess"] if ours["counts"] else math.inf
    theirs = peer[key] / peer["ess"]
    label = f"{ours['what']}: {ours['ess']:.0f} effective draws in {ours[key]:.1f} s"
    other = f"{peer['what']}: {peer['ess']:.0f} in {peer[key]:.1f} s"
    return Ratio(question, label, other, own, theirs, theirs / own, target)


def mean(question: str, ratios: list[Ratio], target: float) -> Ratio:
    """The geometric mean of ratios."""
    logs = [math.log(each.value) if each.value else -math.inf for each in ratios]
    value = math.exp(sum(logs) / len(logs))
    least = min(each.value for each in ratios)
    return Ratio(question, "geometric mean", "seconds for one effective draw", 1 / value, 1.0, least, target)


def ratios() -> Iterator[Ratio]:
    """Each posterior, then the geometric means."""
    peers = [path for path in os.environ.get("EVIDENTIA_PEERS", "").split(":") if path]
    found: dict[str, list[Ratio]] = {}
    for name in DATA:
        ours = here("sample", name)
        z = largest_z(name, ours["moments"])
        ours["counts"] = ours["r_hat"] < 1.01 and z < 5
        state = f"R-hat {ours['r_hat']:.4f}, largest |z| {z:.1f}, {ours['divergences']} divergences"
        print(f"{name}: {state}{'' if ours['counts'] else ': DOES NOT COUNT'}", flush=True)
        yield ratio(f"{name}, Pyro NUTS, cold", ours, here("nuts", name), "cold", AIM)
        for python in peers:
            four = numpyro(python, name)
            wide = numpyro(
                python, name, "--chains", "64", "--method", "vectorized", "--warmup", "500", "--draws", "500"
            )
            for what, peer, key in (
                ("4 chains, cold", four, "cold"),
                ("4 chains, warm", four, "warm"),
                ("64 vectorised chains, cold", wide, "cold"),
            ):
                one = ratio(f"{name}, {peer['what']}, {what}", ours, peer, key, 1)
                found.setdefault(f"{peer['what']}, {what}", []).append(one)
                yield one
    for what, each in found.items():
        aim = VECTORISED_AIM if "64" in what else PEER_AIM
        yield mean(f"all posteriors, {what}", each, aim)
