"""Small models whose posteriors a calibration study draws again and again, and defects to plant in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CalibrationCase", "defective_hmc", "linear_case", "logistic_case", "schools_case"]


class CalibrationCase(NamedTuple):
    """A question for `sbc`.

    Attributes:
        model: the model whose posteriors are sampled; a planted defect is in it.
        simulator: the model that parameters and data are drawn from.
        args: of both, before the data `y`.
        exact: y -> site -> draws of the exact posterior, or None.
        pair: (model, the best guide of independent normals), or None.
        log_evidence: y (n,) -> exact log evidence in nats, or None.

    References:
        none; bookkeeping.
    """

    model: Callable[..., Any]
    simulator: Callable[..., Any]
    args: tuple[Any, ...]
    exact: Callable[..., Any] | None = None
    pair: tuple[Callable[..., Any], Callable[..., Any]] | None = None
    log_evidence: Callable[[Tensor], float] | None = None

    def __call__(self, *data: Any) -> Any:
        """One run of the model, whatever the study's data: what a figure of its graph needs."""
        del data
        return self.model(*self.args)


def schools_case(prior_scale: float = 1.0, jacobian: str = "right") -> CalibrationCase:
    r"""Eight schools, non-centred: \(y_j \sim N(\mu + \tau t_j, s_j)\), ten parameters.

    Args:
        prior_scale: multiplies the scales of all priors of the sampled model.
        jacobian: "wrong": the sampled model has \(-\log|\partial\tau/\partial x|\) for plus.

    References:
        Rubin, 1981, Estimation in parallel randomized experiments.
    """
    import pyro
    import pyro.distributions as dist
    import torch

    def program(width: float, sign: str) -> Callable[..., Any]:
        def model(scale: Tensor, y: Tensor | None = None) -> Tensor:
            mu = pyro.sample("mu", dist.Normal(scale.new_tensor(0.0), 5.0 * width))
            tau = pyro.sample("tau", dist.HalfNormal(scale.new_tensor(5.0 * width)))
            if sign == "wrong":
                # tau = exp(x): the log of the Jacobian is x; twice less turns its sign.
                pyro.factor("sign", -2.0 * tau.log())
            with pyro.plate("schools", len(scale)):
                t = pyro.sample("t", dist.Normal(scale.new_tensor(0.0), width))
                drawn: Tensor = pyro.sample("obs", dist.Normal(mu + tau * t, scale), obs=y)
                return drawn

        return model

    scale = torch.tensor((15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0), dtype=torch.float64)
    return CalibrationCase(program(prior_scale, jacobian), program(1.0, "right"), (scale,))


def logistic_case(x: Tensor) -> CalibrationCase:
    r"""Logistic regression: \(\alpha \sim N(0, 1)\), \(\beta \sim N(0, I)\).

    Args:
        x: (rows, columns).

    References:
        none; a textbook model.
    """
    import pyro
    import pyro.distributions as dist

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        alpha = pyro.sample("alpha", dist.Normal(x.new_tensor(0.0), 1.0))
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            drawn: Tensor = pyro.sample("obs", dist.Bernoulli(logits=alpha + x @ beta), obs=y)
            return drawn

    return CalibrationCase(model, model, (x,))


def linear_case(x: Tensor, num_draws: int = 128) -> CalibrationCase:
    r"""Linear regression with unit noise, \(\beta \sim N(0, I)\): posterior \(N(\Lambda^{-1} x^\top y,
    \Lambda^{-1})\), \(\Lambda = I + x^\top x\), and evidence \(N(y; 0, I + x x^\top)\) are known.

    The best independent normals have the right means and variances \(1 / \Lambda_{ii}\).

    Args:
        x: (rows, columns).
        num_draws: of each exact posterior.

    References:
        Bishop, 2006, Pattern recognition and machine learning (sections 3.3 and 10.1.2).
    """
    import pyro
    import pyro.distributions as dist
    import torch

    precision = torch.eye(x.shape[1], dtype=x.dtype) + x.mT @ x
    factor = torch.linalg.cholesky(precision)
    evidence = dist.MultivariateNormal(
        x.new_zeros(len(x)), torch.eye(len(x), dtype=x.dtype) + x @ x.mT, validate_args=False
    )

    def mean(y: Tensor) -> Tensor:
        return torch.cholesky_solve((x.mT @ y)[:, None], factor)[:, 0]

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            drawn: Tensor = pyro.sample("obs", dist.Normal((x @ beta[..., None])[..., 0], 1.0), obs=y)
            return drawn

    def exact(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        noise = torch.randn(x.shape[1], num_draws, dtype=x.dtype)
        spread = torch.linalg.solve_triangular(factor.mT, noise, upper=True)
        return {"beta": (mean(y)[:, None] + spread).mT}

    def guide(x: Tensor, y: Tensor | None = None) -> Tensor:
        centre = x.new_zeros(x.shape[1]) if y is None else mean(y)
        drawn: Tensor = pyro.sample("beta", dist.Normal(centre, precision.diagonal().rsqrt()).to_event(1))
        return drawn

    return CalibrationCase(model, model, (x,), exact, (model, guide), lambda y: float(evidence.log_prob(y)))


def defective_hmc() -> Any:
    """HMC whose accept ratio takes the end's momentum five per cent too long.

    References:
        none; a planted defect.
    """
    import torch

    from evidentia.inference.mcmc.hmc import hmc_proposal
    from evidentia.inference.mcmc.info import Info
    from evidentia.inference.mcmc.metric import draw_momentum, kinetic
    from evidentia.inference.mcmc.points import Point, choose, metropolis
    from evidentia.inference.mcmc.tuned import TunedKernel

    class Defective(TunedKernel):
        name = "defective_hmc"
        optimal_acceptance = 0.3

        def transition(
            self, point: Any, density: Any, step_size: Any, metric: Any, generator: Any
        ) -> tuple[Any, Any]:
            momentum = draw_momentum(metric, point.position, generator)
            # A quarter turn: the end's momentum is then the start's position.
            steps = max(1, min(32, round(1.5 / float(step_size))))
            end, energy, error = hmc_proposal(point, momentum, density, step_size, steps, metric, self.beta)
            error = error + (1.05**2 - 1.0) * kinetic(metric, end.momentum)
            accepted, rate, diverging = metropolis(error, generator)
            proposed = Point(end.position, end.log_density, end.gradient, end.log_likelihood)
            info = Info(rate, energy, diverging, torch.tensor(steps), error)
            return choose(accepted, proposed, point), info

    return Defective()
