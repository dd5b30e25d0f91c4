"""Train many guides in one vectorised loop: fused Adam, clipping and stopping per structure."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.structure.stacked.guide import StackedGuide, deal
from evidentia.inference.structure.stacked.state import Progress, State, as_dict
from evidentia.inference.structure.stacked.target import Target, log_weight

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

ROWS = ("theta", "first", "second", "variance", "taken", "steps", "total", "guarded")


class Schedule(NamedTuple):
    """How long and how fast to train.

    Attributes:
        num_steps: most steps.
        num_particles: draws per step.
        learning_rate: of Adam, at the first step.
        decay: the learning rate falls geometrically to this factor of itself at the last step.
        gradient_clip: largest norm of one structure's gradient.
        tolerance: a structure stops when the mean ELBO of a window moved by less than this, in nats.
        window: steps in a window; the losses are recorded as window means.
        chunk_size: structures evaluated together.
        power: the power β of the likelihood.
        variance_update: from the second moments ``E_q[u²]`` to the prior variances that maximise the upper
            level; ``None`` to keep the variances.
        variance_bounds: the compact set the prior variances are kept in.
    """

    num_steps: int
    num_particles: int = 2
    learning_rate: float = 0.05
    decay: float = 0.02
    gradient_clip: float = 1e3
    tolerance: float | None = None
    window: int = 50
    chunk_size: int = 512
    power: float = 1.0
    variance_update: Callable[[Tensor], Tensor] | None = None
    variance_bounds: tuple[float, float] = (1e-8, 1e8)


def clip(gradient: Tensor, largest: float) -> Tensor:
    """Scale each row down to at most the given norm; never across rows.

    Example:
        >>> clip(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    norm = gradient.norm(dim=-1, keepdim=True)
    return gradient * (largest / norm.clamp(min=largest))


def step(
    target: Target, guide: StackedGuide, schedule: Schedule, state: State, generator: torch.Generator
) -> State:
    """One ascent step of the ELBO for every running structure.

    Args:
        target: the structures.
        guide: the Gaussian family.
        schedule: lengths and rates.
        state: where training stands; its tensors are not changed.
        generator: random numbers; advanced by the same amount whatever the number of structures.

    Returns:
        The next state (its ``generator`` field is refreshed only by :func:`train`).

    References:
        Kingma & Ba, 2015. Adam: a method for stochastic optimization.
    """
    draws = (schedule.num_particles, target.active.shape[-1])
    raw = torch.randn(draws, generator=generator, dtype=state.theta.dtype).to(state.theta.device)
    rate = schedule.learning_rate * schedule.decay ** (int(state.step) / schedule.num_steps)
    rows = state.running.nonzero().squeeze(-1)
    if len(rows) == len(state.running) <= schedule.chunk_size:
        new = _update(target, guide, schedule, state, raw, rate, rows)
    else:
        parts = [
            _update(target, guide, schedule, _take(state, piece), raw, rate, piece)
            for piece in rows.split(schedule.chunk_size)
        ]
        new = {
            name: getattr(state, name).index_copy(0, rows, torch.cat([part[name] for part in parts]))
            for name in ROWS
        }
    state = state._replace(step=state.step + 1, **new)
    return _close_window(schedule, state) if int(state.step) % schedule.window == 0 else state


def train(
    target: Target,
    guide: StackedGuide,
    schedule: Schedule,
    state: State,
    callback: Callable[[Progress], bool | None] | None = None,
) -> tuple[State, str]:
    """Run steps until the last one, until every structure has stopped, or until the callback returns true.

    Returns:
        The state and why training ended: ``"num_steps"``, ``"tolerance"`` or ``"callback"``.

    References:
        Kingma & Ba, 2015. Adam: a method for stochastic optimization.

    Example:
        >>> from evidentia.inference.structure.stacked.guide import MeanField
        >>> from evidentia.inference.structure.stacked.state import init
        >>> y = torch.tensor([1.0, 1.2])
        >>> target = Target(
        ...     lambda u, noise, rows: -0.5 * (y - u).square().sum(-1), torch.ones(1, 1, dtype=torch.bool)
        ... )
        >>> theta = MeanField().initial(torch.zeros(1, 1), torch.ones(1, 1))
        >>> start = init(theta, torch.ones(1, 1), seed=0)
        >>> state, reason = train(target, MeanField(), Schedule(num_steps=300), start)
        >>> reason, [round(float(value), 2) for value in MeanField().moments(state.theta, target.active)[0]]
        ('num_steps', [0.73])
    """
    generator = torch.Generator()
    generator.set_state(state.generator)
    while int(state.step) < schedule.num_steps:
        if not bool(state.running.any()):
            return state._replace(generator=generator.get_state()), "tolerance"
        state = step(target, guide, schedule, state, generator)
        if callback is not None:
            current = state._replace(generator=generator.get_state())
            running = int(state.running.sum())
            if callback(
                Progress(
                    int(state.step), schedule.num_steps, state.losses, running, partial(as_dict, current)
                )
            ):
                return current, "callback"
    return state._replace(generator=generator.get_state()), "num_steps"


def _take(state: State, rows: Tensor) -> State:
    return state._replace(**{name: getattr(state, name)[rows] for name in ROWS})


def _update(
    target: Target,
    guide: StackedGuide,
    schedule: Schedule,
    state: State,
    raw: Tensor,
    rate: float,
    rows: Tensor,
) -> dict[str, Tensor]:
    """The new values of the structures numbered ``rows``, which are all that ``state`` holds."""
    active = target.active[rows]
    loss, gradient, norm, guarded = _gradients(target, guide, schedule, state, deal(raw, active), rows)
    usable = norm.isfinite().squeeze(-1)
    if not bool(usable.all()):
        gradient = torch.where(usable.unsqueeze(-1), gradient, 0.0)
    if bool((norm > schedule.gradient_clip).any()):
        gradient = clip(gradient, schedule.gradient_clip)
    taken = state.taken + usable
    times = taken.clamp(min=1).to(gradient.dtype).unsqueeze(-1)
    first = state.first.lerp(gradient, 1 - BETA1)
    second = (state.second * BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    scale = -rate * (1 - BETA2**times).sqrt() / (1 - BETA1**times)
    theta = (first / (second.sqrt().add_(EPSILON))).mul_(scale).add_(state.theta.detach())
    variance = _variances(target, guide, schedule, theta, state.variance, active)
    new = {"theta": theta, "first": first, "second": second, "variance": variance}
    if not bool(usable.all()):
        new = {
            name: torch.where(usable.unsqueeze(-1), value, getattr(state, name))
            for name, value in new.items()
        }
    return {**new, "taken": taken, "steps": state.steps + 1, "total": state.total + loss, "guarded": guarded}


def _gradients(
    target: Target, guide: StackedGuide, schedule: Schedule, state: State, noise: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, gradients, their norms, and which structures have needed the guard.

    The guard is slow and hardly ever needed. So a step is first done without; where it gives a number that is
    not finite it is done again, with the same noise and the guard, and the guard stays on.
    """

    def differentiate(target: Target) -> tuple[Tensor, Tensor, Tensor]:
        theta = state.theta.detach().requires_grad_()
        loss = -log_weight(target, guide, theta, noise, state.variance, rows, schedule.power).mean(0)
        # The sum only collects the rows: no row's loss depends on another row's parameters.
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
        return loss.detach(), gradient, gradient.norm(dim=-1, keepdim=True)

    if bool(state.guarded.any()):
        return *differentiate(target.careful()), state.guarded
    loss, gradient, norm = differentiate(target)
    finite = (loss + norm.squeeze(-1)).isfinite()
    if target.guarded is None or bool(finite.all()):
        return loss, gradient, norm, state.guarded
    return *differentiate(target.careful()), ~finite


def _variances(
    target: Target, guide: StackedGuide, schedule: Schedule, theta: Tensor, variance: Tensor, active: Tensor
) -> Tensor:
    if schedule.variance_update is None:
        return variance
    width = target.num_weights
    loc, deviation = guide.moments(theta[..., :-1] if target.learn_noise else theta, active)
    best = schedule.variance_update((loc.square() + deviation.square())[..., :width])
    # Where the hyperprior is improper the maximum can run to 0 or infinity: keep to a compact set.
    return torch.where(active[..., :width], best.clamp(*schedule.variance_bounds), variance)


def _close_window(schedule: Schedule, state: State) -> State:
    mean = state.total / schedule.window
    if len(state.losses):
        mean = torch.where(state.running, mean, state.losses[-1])
    running = state.running
    if schedule.tolerance is not None and len(state.losses):
        change = (mean - state.losses[-1]).abs()
        # A structure whose loss is not finite never converges; it must not keep all the others running.
        running = running & (change >= schedule.tolerance) & mean.isfinite()
    losses = torch.cat([state.losses, mean.unsqueeze(0)])
    return state._replace(running=running, total=torch.zeros_like(mean), losses=losses)
