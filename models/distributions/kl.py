"""Opt-in registration of the divergences of this package with torch's dispatcher."""

import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.distributions.kl import register_kl as _register

from evidentia.models.distributions.gumbel_softmax import GumbelSoftmax
from evidentia.models.distributions.gumbel_softmax_kl import gumbel_softmax_kl, gumbel_softmax_kl_ratio
from evidentia.models.distributions.log_dirichlet import LogDirichlet
from evidentia.models.distributions.logistic_normal import LogisticNormal, logistic_normal_kl


def register_kl() -> None:
    """Make ``torch.distributions.kl_divergence`` and ``TraceMeanField_ELBO`` know the laws of this package.

    Importing has no side effect, so this is a call. It may be repeated.

    Example:
        >>> import torch
        >>> register_kl()
        >>> q, p = GumbelSoftmax(0.5, torch.tensor([3.0, 1.0, 0.5]).log()), GumbelSoftmax(0.5, torch.zeros(3))
        >>> round(torch.distributions.kl_divergence(q, p).item(), 6)
        0.566541

    References:
        Maddison, Mnih & Teh, 2017. The Concrete distribution.
    """
    _register(GumbelSoftmax, GumbelSoftmax)(_gumbel_softmax)
    _register(LogDirichlet, LogDirichlet)(_dirichlet)
    _register(LogisticNormal, LogisticNormal)(logistic_normal_kl)


def _gumbel_softmax(q: GumbelSoftmax, p: GumbelSoftmax) -> Tensor:
    """Same temperatures: one integral; different ones: one call for each distinct ratio."""
    batch = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    ratio = (p.temperature / q.temperature).expand(batch)
    same = gumbel_softmax_kl(q.logits, p.logits)
    if bool((ratio == 1).all()):
        return same
    size = q.event_shape[0]
    logits_q = q.logits.expand((*batch, size)).reshape(-1, size)
    logits_p = p.logits.expand((*batch, size)).reshape(-1, size)
    rows = zip(logits_q, logits_p, ratio.reshape(-1).tolist(), strict=True)
    return torch.stack([gumbel_softmax_kl_ratio(a, b, r) for a, b, r in rows]).reshape(batch)


def _dirichlet(q: LogDirichlet, p: LogDirichlet) -> Tensor:
    return kl_divergence(q.base, p.base)
