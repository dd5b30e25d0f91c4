"""The handler `gradient_noise`: bias and variance of every discrete estimator at the same parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evidentia.studies.harness.declare.config import revalidate
from evidentia.studies.harness.engine.outcome import Context, Outcome, Problem
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.handlers.training import Estimator, TrainingParams, discrete_objective, train
from evidentia.studies.harness.terminal.progress import ProgressEvent

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


_TUNING_COPIES = 10
RARE = 0.02
"""Bits rarer than this are left out of the standard scores: too few of the draws see them."""


class GradientNoiseParams(TrainingParams):
    """Parameters of `gradient_noise`: the training that leads to the parameters, and what is measured."""

    estimators: tuple[Estimator, ...] = Field(default=("reinforce", "disarm"), min_length=1)
    draws: int = Field(default=2, ge=2, description="guide draws of each estimate; a pair counts as two")
    images: int = Field(default=10, ge=1, description="held-out rows whose logits are measured")
    copies: int = Field(default=50, ge=1, description="independent copies of each row in one backward pass")
    repeats: int = Field(default=40, ge=2, description="backward passes; copies times repeats are the draws")
    tuning_steps: int = Field(default=300, ge=0, description="steps in which baselines are trained first")
    tuning_rate: float = Field(default=0.01, gt=0)


def gradient_noise(problem: Problem, params: Mapping[str, Any], context: Context) -> Outcome:
    r"""Measure \(g - \nabla_\theta \mathrm{ELBO}\) in the logits θ of the guide, at one set of parameters.

    The pair is trained first. Then each held-out row, in `copies` copies, gets logits of its own, those of
    the encoder, so that one backward pass gives `copies` independent gradients. The exact gradient is a sum
    over all states, \(E_q[f(z)(z_j - p_j)]\). Baselines and control variates are trained at these parameters
    before anything is measured, which is the best that they can do there.

    The rows have `estimator`; `evaluations` of the model; `bias_squared` (its own noise taken off) and
    `variance`, both summed over the latents and averaged over the images, nats²; `relative_bias`, the root
    of the first over the norm of the exact gradient; `snr`, that norm over the root of the variance; and
    `largest_z`, the largest standard score of a mean entry among the bits with probabilities between `RARE`
    and 1 - `RARE` (of an event that no draw shows, the spread is unknown). The table `entries` has every
    entry.

    Raises:
        StudyError: a parameter is wrong, or the model cannot be summed over (exit 2).
        Stopped: the context asked to stop during the training.
    """
    import pandas as pd
    import torch

    from evidentia.models.latent.discrete_vae import BitEncoder, DiscreteVAE

    options = revalidate(GradientNoiseParams, params, "inference")
    if not (isinstance(problem.model, DiscreteVAE) and isinstance(problem.guide, BitEncoder)):
        raise StudyError("model: inference 'gradient_noise' sums over the states of a model 'discrete_vae'")
    if problem.data.test_x is None:
        raise StudyError("data: inference 'gradient_noise' needs held-out rows")
    kind = problem.model.prior_logits.dtype
    rows, held_out = problem.data.x.to(kind), problem.data.test_x.to(kind)[: options.images]
    size: dict[str, Any] = {} if options.batch_size is None else {"size": len(rows)}
    result = train(problem, options, context, (rows,), **size)
    lines, entries = [], []
    with result.scope(), torch.no_grad():
        logits = problem.guide.logits(held_out)
        exact = exact_gradient(problem.model, logits, held_out)
        joint = problem.model.log_joint(held_out).logsumexp(0)
    for done, estimator in enumerate(options.estimators):
        mean, variance = _moments(problem.model, held_out, logits, estimator, options, context.seed + done)
        number = options.copies * options.repeats
        table = pd.DataFrame(
            {
                "estimator": estimator,
                "image": torch.arange(len(held_out)).repeat_interleave(logits.shape[1]),
                "latent": torch.arange(logits.shape[1]).repeat(len(held_out)),
                "probability": logits.sigmoid().flatten(),
                "exact": exact.flatten(),
                "mean": mean.flatten(),
                "variance": variance.flatten(),
            }
        )
        entries.append(table)
        lines.append(_summary(table, number) | {"evaluations": _evaluations(estimator, options, logits)})
        context.report(ProgressEvent(done + 1, len(options.estimators), "gradient"))
    common = {"log_evidence": float(joint.sum()), "standard_error": 0.0, "kind": "exact"}
    return Outcome(
        [{"estimator": name, **line, **common} for name, line in zip(options.estimators, lines, strict=True)],
        tables={"entries": pd.concat(entries, ignore_index=True)},
    )


def exact_gradient(model: Any, logits: Tensor, x: Tensor) -> Tensor:
    r"""\(\nabla_\theta E_{q_\theta}[\log p(x, z) - \log q_\theta(z)]\) by a sum over all states.

    Args:
        model: a `DiscreteVAE` with L latents.
        logits: θ (n, L).
        x: (n, D).

    Returns:
        (n, L), nats, float64.

    References:
        none; enumeration.
    """
    from torch.nn.functional import softplus

    from evidentia.models.latent.discrete_vae import bit_states

    theta = logits.double()
    states = bit_states(theta.shape[1], dtype=theta.dtype)
    log_q = states @ theta.T - softplus(theta).sum(-1)
    weight = log_q.exp() * (model.log_joint(x).double() - log_q)
    gradient: Tensor = weight.T @ states - weight.sum(0)[:, None] * theta.sigmoid()
    return gradient


def _moments(
    model: Any, x: Tensor, logits: Tensor, estimator: Estimator, options: GradientNoiseParams, seed: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance of one estimate, both shaped like the logits."""
    import pyro
    import pyro.distributions as dist
    import torch

    from evidentia.inference.gradient_stats import gradient_stats

    pairs = estimator in ("arm", "disarm")
    settings = options.replace(num_particles=options.draws // 2 if pairs else options.draws)
    objective = discrete_objective(settings, estimator)
    many = x.repeat(options.copies, 1)

    def guide(x: Tensor) -> Tensor:
        theta = pyro.param("theta", lambda: logits.repeat(len(x) // len(logits), 1))
        with pyro.plate("data", len(x)):
            z: Tensor = pyro.sample("z", dist.Bernoulli(logits=theta).to_event(1))
        return z

    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with pyro.get_param_store().scope():
            _tune(objective, (model, guide), x.repeat(_TUNING_COPIES, 1), options)
        stats = gradient_stats(objective, (model, guide), many, num_draws=options.repeats, seed=seed)
    shape = (options.copies, *logits.shape)
    # The loss is minus the bound.
    return -stats.mean["theta"].reshape(shape).mean(0), stats.sd["theta"].reshape(shape).square().mean(0)


def _tune(objective: Any, pair: Any, x: Tensor, options: GradientNoiseParams) -> None:
    """Train the baseline or control variate, if the estimator has one, with the guide held fixed."""
    import torch

    objective.differentiable_loss(*pair, x)
    if objective.control_variate is None:
        return
    leaves = list(objective.control_variate.parameters())
    optimizer = torch.optim.Adam(leaves, lr=options.tuning_rate)
    for _ in range(options.tuning_steps):
        loss = objective.differentiable_loss(*pair, x)
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        for leaf, value in zip(leaves, found, strict=True):
            leaf.grad = value
        optimizer.step()


def _summary(entries: pd.DataFrame, number: int) -> dict[str, float]:
    """The columns of one estimator's row; `number` draws lie behind each entry."""
    images = entries["image"].nunique()
    error = entries["mean"] - entries["exact"]
    square = float((error**2 - entries["variance"] / number).sum()) / images
    norm = float((entries["exact"] ** 2).sum()) / images
    variance = float(entries["variance"].sum()) / images
    usual = (entries["probability"] - 0.5).abs() <= 0.5 - RARE
    score = (error / (entries["variance"] / number) ** 0.5)[usual].abs()
    return {
        "bias_squared": square,
        "variance": variance,
        "relative_bias": (max(0.0, square) / norm) ** 0.5,
        "snr": (norm / variance) ** 0.5,
        "largest_z": float(score.max()),
        "scored": int(usual.sum()),
    }


def _evaluations(estimator: str, options: GradientNoiseParams, logits: Tensor) -> int:
    """Runs of the decoder on one row for one estimate."""
    return options.draws * {"rebar": 3, "local": 1 + logits.shape[1]}.get(estimator, 1)


gradient_noise.parameters = GradientNoiseParams  # type: ignore[attr-defined]
