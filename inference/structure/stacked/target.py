"""The log-weights of many structures at once: what a stacked guide is trained on and judged by."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.structure.stacked.guide import LOG_2PI, StackedGuide

LogLikelihood = Callable[[Tensor, Tensor | None, Tensor], Tensor]


class Target(NamedTuple):
    """Unnormalised posteriors of S structures over one common vector of D latents.

    Attributes:
        log_likelihood:
            ``(latents (*draws, S', D), log_noise (*draws or 1, S') | None, rows (S',)) -> (*draws, S')``, the
            log-likelihood of the whole data set in nats for the structures numbered ``rows``.
        active: which latents each structure uses, ``(S, D)`` boolean.
        log_noise_prior: log density of the *logarithm* of the noise (so it contains the Jacobian
            ``+ log noise``) where the noise is a latent; the last latent is then ``log noise``. ``None``
            otherwise.
        learn_noise: the noise is a hyperparameter, one per structure, trained beside the guide.
        guarded: the slower log-likelihood to fall back on where the first one is not finite; it equals the
            first wherever that and its gradient are finite. ``None``: there is no other.

    References:
        Graves, 2011. Practical variational inference for neural networks.

    Example:
        >>> y = torch.tensor([0.5, 1.0])
        >>> target = Target(
        ...     lambda u, noise, rows: -0.5 * (y - u).square().sum(-1), torch.ones(1, 1, dtype=torch.bool)
        ... )
        >>> target.num_weights
        1
    """

    log_likelihood: LogLikelihood
    active: Tensor
    log_noise_prior: Callable[[Tensor], Tensor] | None = None
    learn_noise: bool = False
    guarded: LogLikelihood | None = None

    @property
    def num_weights(self) -> int:
        """Latents with a Gaussian prior: all but a latent noise."""
        return self.active.shape[-1] - (self.log_noise_prior is not None)

    def careful(self) -> "Target":
        """The same with the guarded log-likelihood, where there is one."""
        return self if self.guarded is None else self._replace(log_likelihood=self.guarded, guarded=None)


def log_prior(target: Target, latents: Tensor, variance: Tensor, rows: Tensor) -> Tensor:
    """Log prior density of the active latents, ``Σ_i log N(u_i; 0, a_i) (+ log p(log noise))``, in nats.

    Args:
        target: the structures.
        latents: ``(*draws, S', D)``.
        variance: prior variances ``a``, ``(S', num_weights)``.
        rows: numbers of the structures, ``(S',)``.

    Returns:
        ``(*draws, S')``.

    References:
        MacKay, 1994. Bayesian nonlinear modeling for the prediction competition.

    Example:
        >>> active = torch.tensor([[True, False]])
        >>> target = Target(lambda u, noise, rows: u.sum(-1), active)
        >>> log_prior(target, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([0]))
        tensor([-0.9189])
    """
    weights = target.num_weights
    active = target.active[rows, :weights]
    constant = 0.5 * (torch.where(active, variance.log(), 0.0).sum(-1) + LOG_2PI * active.sum(-1))
    squares = latents[..., :weights].square() * torch.where(active, 0.5 / variance, 0.0)
    value = -squares.sum(-1) - constant
    if target.log_noise_prior is not None:
        value = value + target.log_noise_prior(latents[..., -1])
    return value


def log_weight(
    target: Target,
    guide: StackedGuide,
    theta: Tensor,
    noise: Tensor,
    variance: Tensor,
    rows: Tensor,
    power: float = 1.0,
) -> Tensor:
    """Log importance weights ``β log p(y|u) + log p(u) − log q(u)`` of draws ``u ~ q``, in nats.

    Their mean is the (tempered) ELBO, the log of the mean of their exponentials an IWAE bound. The density of
    q is evaluated at stopped parameters: the gradient flows only through the draws, which leaves its
    expectation as it is and makes its variance vanish where q is the exact posterior.

    Args:
        target: the structures.
        guide: the Gaussian family.
        theta: parameters, ``(S', size)``; one more column, the log noise, when the target learns the noise.
        noise: dealt noise, ``(*draws, S', D)``, see
            :func:`~evidentia.inference.structure.stacked.guide.deal`.
        variance: prior variances, ``(S', num_weights)``.
        rows: numbers of the structures, ``(S',)``.
        power: the power β of the likelihood.

    Returns:
        ``(*draws, S')``.

    References:
        Roeder, Wu & Duvenaud, 2017. Sticking the landing: simple, lower-variance gradient estimators for
        variational inference.
        Burda, Grosse & Salakhutdinov, 2016. Importance weighted autoencoders.

    Example:
        >>> from evidentia.inference.structure.stacked.guide import MeanField
        >>> active = torch.ones(1, 1, dtype=torch.bool)
        >>> target = Target(lambda u, noise, rows: torch.zeros(u.shape[:-1]), active)
        >>> theta = MeanField().initial(torch.zeros(1, 1), torch.ones(1, 1))  # q is the prior
        >>> noise, variance, rows = torch.randn(4, 1, 1), torch.ones(1, 1), torch.tensor([0])
        >>> bool(log_weight(target, MeanField(), theta, noise, variance, rows).abs().max() < 1e-5)
        True
    """
    log_noise: Tensor | None = None
    if target.learn_noise:
        theta, log_noise = theta[..., :-1], theta[..., -1].unsqueeze(0)
    active = target.active[rows]
    latents = guide.draw(theta, noise, active)
    if target.log_noise_prior is not None:
        log_noise = latents[..., -1]
    log_likelihood = target.log_likelihood(latents, log_noise, rows)
    log_guide = guide.log_density(theta.detach(), latents, active)
    return power * log_likelihood + log_prior(target, latents, variance, rows) - log_guide
