"""Time of one training step: by hand, by Pyro, by `fit`, recorded, and compiled.

Two programs, float32, one thread. A VAE 64 - 200 - 10 - 200 - 64 on binary data, batch 128, with the ELBO of
K = 1, 5 and 50 draws and the importance-weighted bound of 5; the unit is a step written by hand in plain
torch with fused Adam. And a linear regression with a horseshoe prior, 442 rows and 10 features, five latents
under AutoNormal.

The ways are timed in turn and the minimum over the rounds is kept, because other work on the machine only
ever adds time. Times are those of whole training loops: optimizer, checks and history included.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from benchmarks.ratio import Ratio
from evidentia.inference.compile.objective import compile_objective
from evidentia.inference.fit import fit
from evidentia.inference.objectives.presets import ELBO, IWAE, DReG
from evidentia.inference.training.fit_loop import FitLoop
from evidentia.inference.training.optimiser import adam
from evidentia.inference.training.restarts import RestartLoop
from evidentia.inference.training.starts import Restarts

ROUNDS, STEPS, PER_CALL, RATE = 15, 60, 10, 1e-3
BATCH, PIXELS, HIDDEN, LATENTS = 128, 64, 200, 10


class Model(PyroModule):
    """p(z) p(x | z)."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))

    def forward(self, x: Tensor) -> None:
        """Bernoulli pixels."""
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENTS), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z | x), a diagonal normal."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENTS))

    def forward(self, x: Tensor) -> None:
        """Location and log scale from one network."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def vae() -> tuple[Model, Guide]:
    """A fresh pair, always the same."""
    torch.manual_seed(0)
    return Model(), Guide()


def pixels() -> Tensor:
    """A batch of binary data."""
    return torch.bernoulli(torch.full((BATCH, PIXELS), 0.3), generator=torch.Generator().manual_seed(1))


def by_hand(num_particles: int, importance: bool = False) -> Callable[[], None]:
    """Plain torch, the step a person writes who wants speed: ELBO or importance-weighted bound."""
    model, guide = vae()
    x, particles = pixels(), (num_particles,) if num_particles > 1 else ()
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=RATE, fused=True)
    half_log = 0.5 * math.log(2 * math.pi)
    losses: list[float] = []

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loc, log_scale = guide.encoder(x).chunk(2, -1)
        noise = torch.randn(*particles, BATCH, LATENTS)
        z = loc + log_scale.exp() * noise
        logits = model.decoder(z)
        target = x.expand(logits.shape)
        log_p = -nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        log_p = log_p - (0.5 * z.square() + half_log).sum(-1)
        log_q = -(0.5 * noise.square() + log_scale + half_log).sum(-1)
        log_weight = log_p - log_q
        if importance:
            loss = -(log_weight.logsumexp(0) - math.log(num_particles)).sum()
        else:
            loss = -log_weight.sum() / num_particles
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return step


def horseshoe(x: Tensor, y: Tensor) -> None:
    """Linear regression with global and local shrinkage; safe for extra batch dimensions."""
    tau = pyro.sample("tau", dist.HalfCauchy(x.new_ones(())))
    noise = pyro.sample("noise", dist.HalfCauchy(x.new_ones(())))
    intercept = pyro.sample("intercept", dist.Normal(x.new_zeros(()), 1.0))
    local = pyro.sample("local", dist.HalfCauchy(x.new_ones(x.shape[-1])).to_event(1))
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(x.shape[-1]), 1.0).to_event(1))
    slope = weight * local * tau.unsqueeze(-1)
    with pyro.plate("data", len(y), dim=-1):
        mean = (x * slope.unsqueeze(-2)).sum(-1) + intercept.unsqueeze(-1)
        pyro.sample("obs", dist.Normal(mean, noise.unsqueeze(-1)), obs=y)


def rows() -> tuple[Tensor, Tensor]:
    """Data of the size of the diabetes set."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(442, 10, generator=generator)
    return x, x[:, 0] - 0.5 * x[:, 1] + 0.7 * torch.randn(442, generator=generator)


Block = Callable[[], float]


def loop(step: Callable[[], object]) -> Block:
    """Seconds a step takes in a block of steps."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        return (time.perf_counter() - start) / STEPS

    return run


def pyro_svi(pair: tuple[Any, Any], args: tuple[Tensor, ...], objective: Any) -> Block:
    """Pyro's own loop with its defaults: validation on, one Adam for each parameter."""
    svi = SVI(*pair, pyro.optim.Adam({"lr": RATE}), loss=objective)
    kept: dict[str, Any] = {"params": {}, "constraints": {}}

    def run() -> float:
        with pyro.get_param_store().scope(kept) as mine, pyro.validation_enabled(True):
            seconds = loop(lambda: svi.step(*args))()
        kept.update(mine)
        return seconds

    return run


class Fitting:
    """Seconds a step of `fit` takes once the first two calls are over; what those cost is kept apart.

    A recorded objective keeps its graph from one fit of the pair to the next, so only the first fit records.
    """

    def __init__(
        self, pair: tuple[Any, Any], args: tuple[Tensor, ...], objective: Any, **options: Any
    ) -> None:
        self.pair, self.args, self.objective, self.options = pair, args, objective, options
        self.once = 0.0

    def __call__(self) -> float:
        """One fit of a block of steps."""
        marks: list[tuple[int, float]] = []
        start = time.perf_counter()
        fit(
            self.pair, *self.args, objective=self.objective, num_steps=3 * PER_CALL + STEPS,
            learning_rate=RATE, callbacks=[lambda step: marks.append((step.step, time.perf_counter()))],
            **self.options,
        )  # fmt: skip
        self.once = self.once or marks[2][1] - start
        return (marks[-1][1] - marks[2][1]) / (marks[-1][0] - marks[2][0])


def interleaved(ways: dict[str, Block]) -> dict[str, list[float]]:
    """Seconds a step, by way: every round takes each way once, after one round that does not count."""
    for way in ways.values():
        way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            found[name].append(way())
    return found


def table(title: str, ways: dict[str, Block], found: dict[str, list[float]]) -> None:
    """Print the minimum of every way, and what it cost once."""
    print(f"{title}: ms a step (minimum of {ROUNDS} rounds), share of the first line")
    first = min(next(iter(found.values())))
    for name, seconds in found.items():
        way = ways[name]
        once = f"; first three calls {way.once:.2f} s" if isinstance(way, Fitting) else ""
        print(f"    {name:<44}{1e3 * min(seconds):8.3f}  {min(seconds) / first:5.2f}{once}", flush=True)


def ratio(question: str, found: dict[str, list[float]], ours: str, peer: str, target: float) -> Ratio:
    """How many times faster one way is than another, by the minima of the same rounds."""
    worst = min(b / a for a, b in zip(found[ours], found[peer], strict=True))
    return Ratio(question, ours, peer, min(found[ours]), min(found[peer]), worst, target)


def recorded(pair: Any, args: Any, objective: Any) -> dict[str, Block]:
    """The ways of `fit` on one pair and objective."""
    ways: dict[str, Block] = {
        "fit, eager": Fitting(pair, args, objective),
        "fit, recorded": Fitting(pair, args, compile_objective(objective)),
        "fit, recorded, blocks": Fitting(pair, args, compile_objective(objective), steps_per_call=PER_CALL),
    }
    if shutil.which("g++"):
        inductor = compile_objective(objective, "inductor")
        ways["fit, inductor, blocks"] = Fitting(pair, args, inductor, steps_per_call=PER_CALL)
    return ways


def of_vae(num_particles: int, importance: bool = False) -> tuple[dict[str, Block], dict[str, list[float]]]:
    """All ways on the VAE."""
    x, pyros = (pixels(),), {"num_particles": num_particles, "vectorize_particles": num_particles > 1}
    peer = RenyiELBO(alpha=0, **pyros) if importance else Trace_ELBO(**pyros)
    ways: dict[str, Block] = {
        "plain torch": loop(by_hand(num_particles, importance)),
        "Pyro SVI, defaults": pyro_svi(vae(), x, peer),
    }
    ways |= recorded(vae(), x, IWAE(num_particles) if importance else ELBO(num_particles))
    if importance:
        ways["fit, recorded, blocks, DReG"] = Fitting(
            vae(), x, compile_objective(DReG(num_particles)), steps_per_call=PER_CALL
        )
    return ways, interleaved(ways)


def of_restarts() -> dict[str, list[float]]:
    """One restart and 64 of the regression in a mapped step."""
    args = rows()

    def restarts(number: int) -> Block:
        run = FitLoop((horseshoe, AutoNormal(horseshoe)), args, {}, ELBO(), RATE, adam, None, "stop", 1, None)
        with pyro.get_param_store().scope() as store:
            together = RestartLoop(run, Restarts(number), "aten", "stop", 1, fresh=True)
            together.advance()

        def timed() -> float:
            with pyro.get_param_store().scope(store):
                return loop(together.advance)()

        return timed

    return interleaved({"1 restart": restarts(1), "64 restarts": restarts(64)})


def ratios() -> Iterator[Ratio]:
    """Print the tables, and compare with the project's aims."""
    ours = "fit, recorded, blocks"
    for num_particles, importance, faster, slower in (
        (1, False, 2.5, 1.2),
        (5, False, 1.7, 1.2),
        (5, True, 1.7, 1.2),
        (50, False, 1.3, 1.1),
    ):
        ways, found = of_vae(num_particles, importance)
        where = f"VAE, {'IWAE' if importance else 'ELBO'}, K = {num_particles}"
        table(where, ways, found)
        yield ratio(f"{where}: recorded beside Pyro's defaults", found, ours, "Pyro SVI, defaults", faster)
        yield ratio(f"{where}: recorded beside plain torch", found, ours, "plain torch", 1 / slower)
        if "fit, inductor, blocks" in found:
            compiled = "fit, inductor, blocks"
            yield ratio(f"{where}: compiled beside plain torch", found, compiled, "plain torch", 1.5)
    args, pair = rows(), (horseshoe, AutoNormal(horseshoe))
    ways = {"Pyro SVI, defaults": pyro_svi((horseshoe, AutoNormal(horseshoe)), args, Trace_ELBO())}
    ways |= recorded(pair, args, ELBO())
    found = interleaved(ways)
    table("Horseshoe regression", ways, found)
    pyros = "Pyro SVI, defaults"
    yield ratio("Horseshoe regression: recorded beside Pyro's defaults", found, ours, pyros, 2.5)
    if "fit, inductor, blocks" in found:
        compiled = "fit, inductor, blocks"
        yield ratio("Horseshoe regression: compiled beside Pyro's defaults", found, compiled, pyros, 20)
    found = of_restarts()
    # 64 restarts in at most 1.2 times the time of one.
    yield ratio("Horseshoe regression: a step of 64 restarts", found, "64 restarts", "1 restart", 1 / 1.2)
