"""Langevin dynamics without and with an accept step: ULA and MALA."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from torch import Tensor

from evidentia.inference.mcmc.hmc import hmc_proposal
from evidentia.inference.mcmc.info import Info
from evidentia.inference.mcmc.metric import Metric, draw_momentum, identity_metric
from evidentia.inference.mcmc.points import Point, choose, evaluate_point, metropolis
from evidentia.inference.mcmc.tuned import TunedKernel, TunedRun

__all__ = ["MALA", "ULA", "LangevinState", "langevin_init", "langevin_proposal", "mala_step", "ula_step"]

# What moves: position, log density, gradient, log likelihood.
LangevinState = Point


def langevin_init(position: Tensor, density: Any, beta: Tensor | float = 1.0) -> LangevinState:
    """The state at `position` (C, D).

    Args:
        position: where the chains (or particles) start.
        density: a `LogDensity`, a tempered density or a plain target.
        beta: inverse temperature, () or (C,).

    References:
        Roberts, Tweedie, 1996, Exponential convergence of Langevin distributions.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> langevin_init(torch.ones(1, 2), target_of(lambda x: -0.5 * (x**2).sum(-1))).gradient
        tensor([[-1., -1.]])
    """
    return evaluate_point(position, density, beta)


def langevin_proposal(
    state: LangevinState,
    momentum: Tensor,
    density: Any,
    step_size: Tensor | float,
    metric: Metric,
    beta: Tensor | float = 1.0,
) -> tuple[LangevinState, Tensor]:
    r"""The proposal for given noise, and minus the log of its acceptance ratio.

    With \(p = L^{-\top} z\) one leapfrog is the Langevin step
    \(q' = q + e S (p + \tfrac e2 g) = q + \tfrac{e^2}{2} S g + e L z\), and its energy error is
    \(-\log \frac{\pi(q')\, k(q', q)}{\pi(q)\, k(q, q')}\) with the proposal density \(k\).

    Args:
        state: of all chains.
        momentum: (C, D) from `draw_momentum`.
        density: as in `langevin_init`.
        step_size: () or (C,).
        metric: preconditioner \(S\).
        beta: inverse temperature.

    Returns:
        The proposed state and the energy error (C,), float64 nats.

    References:
        Roberts, Tweedie, 1996, Exponential convergence of Langevin distributions. Neal, 2011, MCMC using
        Hamiltonian dynamics (section 5.2).

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> state = langevin_init(torch.ones(1, 1), normal)
        >>> metric = identity_metric(state.position)
        >>> langevin_proposal(state, torch.zeros(1, 1), normal, 1.0, metric)[0].position
        tensor([[0.5000]])
    """
    end, _, error = hmc_proposal(state, momentum, density, step_size, 1, metric, beta)
    return Point(end.position, end.log_density, end.gradient, end.log_likelihood), error


def ula_step(
    state: LangevinState,
    density: Any,
    step_size: Tensor | float,
    metric: Metric | None = None,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[LangevinState, Info]:
    r"""One unadjusted step \(q' = q + \tfrac{e^2}{2} S g + e L z\); its stationary law is biased.

    On \(N(0, s^2)\) the variance is \(s^2 / (1 - e^2 / 4 s^2)\). A chain whose step is not finite stays
    where it is and counts as divergent.

    Args:
        state: of all chains.
        density: as in `langevin_init`.
        step_size: () or (C,).
        metric: preconditioner; unit variances when None.
        beta: inverse temperature, () or (C,).
        generator: torch's global one when None.

    Returns:
        The new state and what happened; `energy_error` is what an accept step would have seen.

    References:
        Roberts, Tweedie, 1996, Exponential convergence of Langevin distributions.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> state = langevin_init(torch.zeros(3, 2), normal)
        >>> ula_step(state, normal, 0.1)[1].acceptance_rate
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    metric = identity_metric(state.position) if metric is None else metric
    momentum = draw_momentum(metric, state.position, generator)
    proposed, error = langevin_proposal(state, momentum, density, step_size, metric, beta)
    finite = proposed.log_density.isfinite() & proposed.gradient.isfinite().all(-1)
    info = Info(finite.double(), -state.log_density.double(), ~finite, torch.tensor(1), error)
    return choose(finite, proposed, state), info


def mala_step(
    state: LangevinState,
    density: Any,
    step_size: Tensor | float,
    metric: Metric | None = None,
    *,
    beta: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[LangevinState, Info]:
    r"""One Metropolis-adjusted Langevin step: the proposal of `ula_step`, accepted or not.

    Args:
        state: of all chains.
        density: as in `langevin_init`.
        step_size: () or (C,); the acceptance is best near 0.574.
        metric: preconditioner; unit variances when None.
        beta: inverse temperature, () or (C,).
        generator: torch's global one when None.

    References:
        Besag, 1994, Discussion of "Representations of knowledge in complex systems". Roberts, Rosenthal,
        1998, Optimal scaling of discrete approximations to Langevin diffusions.

    Example:
        >>> from evidentia.inference.density.evaluation import target_of
        >>> normal = target_of(lambda x: -0.5 * (x**2).sum(-1))
        >>> state = langevin_init(torch.zeros(3, 2), normal)
        >>> bool((mala_step(state, normal, 0.1)[1].acceptance_rate > 0.9).all())
        True
    """
    metric = identity_metric(state.position) if metric is None else metric
    momentum = draw_momentum(metric, state.position, generator)
    proposed, error = langevin_proposal(state, momentum, density, step_size, metric, beta)
    accepted, rate, diverging = metropolis(error, generator)
    info = Info(rate, -state.log_density.double(), diverging, torch.tensor(1), error)
    return choose(accepted, proposed, state), info


@final
class ULA(TunedKernel):
    """Unadjusted Langevin: fast, biased, for training loops and as a teaching example.

    The warm-up takes `MALA` steps, because an unadjusted chain far out in a light tail explodes; they find
    the metric. Afterwards the step size is `step_size` (0.3 in the whitened space unless given) and every
    step is taken. Draws carry the flag *unadjusted*; compare their second moments with `MALA`.

    References:
        Roberts, Tweedie, 1996, Exponential convergence of Langevin distributions.

    Example:
        >>> ULA(num_chains=8).adjusted
        False
    """

    name: ClassVar[str] = "ula"
    adjusted: ClassVar[bool] = False
    optimal_acceptance: ClassVar[float] = 0.574

    def first_step_size(self) -> float | None:
        """Searched: the step size given is that of the unadjusted steps."""
        return None

    def step_size_of(self, state: TunedRun) -> float:
        """Tuned within the warm-up, fixed afterwards."""
        if state.step < state.warmup_steps:
            return super().step_size_of(state)
        return 0.3 if self.step_size is None else self.step_size

    def warmup_transition(
        self, point: Point, density: Any, step_size: float, metric: Metric, generator: torch.Generator | None
    ) -> tuple[Point, Info]:
        """`mala_step`."""
        return mala_step(point, density, step_size, metric, beta=self.beta, generator=generator)

    def transition(
        self, point: Point, density: Any, step_size: float, metric: Metric, generator: torch.Generator | None
    ) -> tuple[Point, Info]:
        """`ula_step`."""
        return ula_step(point, density, step_size, metric, beta=self.beta, generator=generator)


@final
class MALA(TunedKernel):
    """Metropolis-adjusted Langevin, tuned to an acceptance of 0.574.

    References:
        Roberts, Rosenthal, 1998, Optimal scaling of discrete approximations to Langevin diffusions.

    Example:
        >>> MALA(num_chains=8).target_accept_prob
        0.574
    """

    name: ClassVar[str] = "mala"
    optimal_acceptance: ClassVar[float] = 0.574

    def transition(
        self, point: Point, density: Any, step_size: float, metric: Metric, generator: torch.Generator | None
    ) -> tuple[Point, Info]:
        """`mala_step`."""
        return mala_step(point, density, step_size, metric, beta=self.beta, generator=generator)
