"""512 small Bayesian networks trained together, beside one after another.

The network is 9 - 16 - 1 with tanh units: 176 weights, 50 rows, float64, one draw per step. The 512
structures are the subsets of its inputs. One step of all 512 is compared with 512 steps of one network: by
the same code on one thread, and by a plain torch loop with the closed-form KL and torch.optim.Adam. Beside
the plain loop, which gains nothing from a second core, all networks together may use every core.
"""

import math
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.ratio import Ratio, measure
from evidentia.inference.structure.stacked.family_target import family_target
from evidentia.inference.structure.stacked.guide import MeanField
from evidentia.inference.structure.stacked.state import init
from evidentia.inference.structure.stacked.target import Target
from evidentia.inference.structure.stacked.training import Schedule, step
from evidentia.models.likelihood import Gaussian
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import Dense

ROWS, INPUTS, UNITS, STRUCTURES = 50, 9, 16, 512
NOISE = 0.3
STEPS, SINGLE_STEPS = 20, 64  # enough for the cost of a step inside a training loop


def data() -> tuple[Tensor, Tensor]:
    """A smooth function of one of the inputs, with noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, INPUTS, generator=generator, dtype=torch.float64)
    return x, torch.sin(x[:, 0]) + NOISE * torch.randn(ROWS, generator=generator, dtype=torch.float64)


def network(latents: Tensor, x: Tensor) -> Tensor:
    """The network's output ``(*b, n)`` for weights ``(*b, 176)``."""
    first, bias, last = latents.split([INPUTS * UNITS, UNITS, UNITS], -1)
    hidden = torch.tanh(x @ first.unflatten(-1, (INPUTS, UNITS)) + bias.unsqueeze(-2))
    return (hidden * last.unsqueeze(-2)).sum(-1)


def log_likelihood(latents: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Log-likelihood of the data set, ``(*b)``."""
    squares = (y - network(latents, x)).square().sum(-1)
    return -0.5 * squares / NOISE**2 - ROWS * math.log(NOISE * math.sqrt(2 * math.pi))


def subsets(count: int) -> Target:
    """The last ``count`` subsets of the inputs: a row of the first layer is dead where its input is out."""
    x, y = data()
    inputs = (torch.arange(2**INPUTS - count, 2**INPUTS)[:, None] >> torch.arange(INPUTS)) & 1
    rest = torch.ones(count, 2 * UNITS, dtype=torch.bool)
    active = torch.cat([inputs.bool().repeat_interleave(UNITS, -1), rest], -1)
    return Target(lambda latents, noise, rows: log_likelihood(latents, x, y), active)


def declared(count: int) -> Target:
    """``count`` copies of the network declared as a family."""
    x, y = data()
    family = Family(INPUTS).edge("x", "h", ops={"layer": Dense(UNITS, "tanh")})
    family.edge("h", "f", ops={"out": Dense(1, bias=False)})
    model = family.model(likelihood=Gaussian(NOISE))
    return family_target(model, x, y, family.vertices().to(x).expand(count, -1), learn_noise=False)


def steps(target: Target, number: int) -> Callable[[], None]:
    """A call that makes ``number`` steps of all structures of the target."""
    guide, schedule, generator = MeanField(), Schedule(num_steps=10_000, num_particles=1), torch.Generator()
    structures, dim = target.active.shape
    start = torch.full((structures, dim), 0.1, dtype=torch.float64)
    state = init(guide.initial(torch.zeros_like(start), start), torch.ones_like(start), seed=0)

    def run() -> None:
        current = state
        for _ in range(number):
            current = step(target, guide, schedule, current, generator)

    return run


def on_all_cores(call: Callable[[], None]) -> Callable[[], None]:
    """The call with as many threads as the machine has cores."""

    def run() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(os.cpu_count() or 1)
        try:
            call()
        finally:
            torch.set_num_threads(before)

    return run


def plain_loop(number: int) -> Callable[[], None]:
    """The same for one network in plain torch."""
    x, y = data()
    loc = torch.zeros(INPUTS * UNITS + 2 * UNITS, dtype=torch.float64, requires_grad=True)
    log_scale = torch.full_like(loc, math.log(0.1)).requires_grad_()
    optimizer = torch.optim.Adam([loc, log_scale], lr=0.05)

    def run() -> None:
        for _ in range(number):
            optimizer.zero_grad()
            scale = log_scale.exp()
            kl = (0.5 * (loc.square() + scale.square() - 1) - log_scale).sum()
            loss = kl - log_likelihood(loc + scale * torch.randn_like(loc), x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([loc, log_scale], 1e3)
            optimizer.step()

    return run


def ratios() -> Iterator[Ratio]:
    """Compare one step of 512 networks with 512 steps of one."""
    share = SINGLE_STEPS / (STEPS * STRUCTURES)
    together = (f"{STRUCTURES} at once, {STEPS} steps", steps(subsets(STRUCTURES), STEPS))
    yield measure(
        f"{STRUCTURES} networks together",
        ours=together,
        peer=("the same code, one by one", steps(subsets(1), SINGLE_STEPS)),
        target=20,
        peer_share=share,
    )
    yield measure(
        f"{STRUCTURES} networks together",
        ours=(f"{STRUCTURES} at once, {STEPS} steps, all cores", on_all_cores(together[1])),
        peer=("a plain torch loop, one by one", plain_loop(SINGLE_STEPS)),
        target=20,
        peer_share=share,
    )
    yield measure(
        f"{STRUCTURES} networks declared as a family, together",
        ours=(f"{STRUCTURES} at once, {STEPS} steps", steps(declared(STRUCTURES), STEPS)),
        peer=("the same code, one by one", steps(declared(1), SINGLE_STEPS)),
        target=20,
        peer_share=share,
    )
