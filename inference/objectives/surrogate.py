"""The loss of a set of particles, with the gradient its coefficients prescribe."""

from __future__ import annotations

from torch import Tensor

from evidentia.inference.objectives.chain import (
    add_gradients,
    attach,
    chain_back,
    gradients,
    rescale,
)
from evidentia.inference.objectives.coefficients import Coefficients
from evidentia.inference.objectives.cut_checks import check_coupling, check_points
from evidentia.inference.objectives.graph import upstream
from evidentia.inference.objectives.leaf_cut import Particles

__all__ = ["cut_loss", "is_total", "total_loss"]


def is_total(objective: str, gradient: str) -> bool:
    """Whether a combination has a = b = -s, so that plain autograd through the uncut samples gives it.

    Args:
        objective: a particle objective.
        gradient: one of its gradients.

    References:
        none; bookkeeping.

    Example:
        >>> is_total("iwae", "vimco"), is_total("iwae", "dreg"), is_total("rws", "total")
        (True, False, False)
    """
    return gradient in ("total", "vimco", "loo") and objective not in ("rws", "piwae")


def score_term(particles: Particles, c: Coefficients, *, sleep: bool = False) -> Tensor | None:
    r"""\(\sum_k s_k\log q(z_k)\) over the sites that are not reparameterised, (K, *plates), or None.

    Under `poutine.scale` the draws still come from the density itself; only the part that log q has inside
    the log-weight is scaled.

    Args:
        particles: with or without a cut.
        c: their coefficients.
        sleep: wake-sleep, whose scores are not those of log q in a log-weight.

    Raises:
        ValueError: the combination has no coefficient for such sites.

    References:
        Mnih and Gregor, 2014. Neural variational inference and learning in belief networks.
    """
    score, inside = particles.score_other, particles.log_q_other
    if score is None or inside is None or c.score_other is None:
        return None
    term = c.score_other * score
    if score is not inside and not sleep:
        term = term - c.score_reparam * (score - inside)
    return term


def total_loss(particles: Particles, c: Coefficients) -> Tensor:
    r"""Loss whose gradient is that of \(\sum_k a_k(\log p-\log q)+s_k\log q_{\mathrm{other}}\), z attached.

    Args:
        particles: run without a cut.
        c: coefficients of a total combination (see `is_total`).

    Returns:
        Scalar, nats.

    References:
        Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders.
    """
    surrogate = c.theta * (particles.log_p - particles.log_q_reparam)
    score = score_term(particles, c)
    if score is not None:
        surrogate = surrogate + score
    scale = -particles.plates.scale
    value, total = scale * c.value.sum(), scale * surrogate.sum()
    return attach(value, [total], [value.new_ones(())]) if total.requires_grad else value


def cut_loss(particles: Particles, c: Coefficients, objective: str, gradient: str) -> Tensor:
    r"""Loss whose gradient has separate coefficients for the parameters of log p, the path and the scores.

    With ascent gradients \(g_\theta=\partial_\theta\sum a\log p\), \(g_i=r\,\partial_{\bar z_i}\sum
    a(\log p-\log q)\) and the chain through later samples, the loss is
    \[ -c\,(\mathrm{value}+\langle g_\theta,\theta\rangle+\sum_i\langle g_i,z_i\rangle+\sum s\log q), \]
    each product entering by its gradient only. Log p and log q are differentiated apart, so a parameter of
    both programs gets its part from each.

    Args:
        particles: run with a cut; without leaves for wake-sleep.
        c: coefficients.
        objective: name of the objective.
        gradient: name of the gradient.

    Returns:
        Scalar, nats.

    Raises:
        ValueError: batch norm couples the particles; a point mass of the guide depends on parameters.
        NotImplementedError: `poutine.scale` on guide sites where a and b are kept apart.

    References:
        Tucker, Lawson, Gu and Maddison, 2019. Doubly reparameterized gradient estimators for Monte Carlo
        objectives.
        Roeder, Wu and Duvenaud, 2017. Sticking the landing.
    """
    leaves = particles.leaves
    samples = [leaf.leaf for leaf in leaves]
    theta, norms = upstream([particles.log_p])
    theta = [p for p in theta if not any(p is sample for sample in samples)]
    check_points(particles.guide_trace, samples, gradient)
    if gradient != "stl" and particles.log_p.shape[0] > 1:
        check_coupling(leaves, norms, particles.log_q_reparam)

    sleep = objective == "rws"
    apart = c.ratio is None
    if apart and gradient == "dreg" and particles.tempered:
        raise NotImplementedError(
            f"poutine.scale: it acts on guide sites, which objective {objective!r} with gradient 'dreg' does "
            "not support. Fix: gradient='total', or no scale"
        )
    if apart:
        g_theta = gradients(particles.log_p, theta, c.theta)
        g = gradients(particles.log_p, samples, c.path)
        g = add_gradients(g, gradients(particles.log_q_reparam, samples, -c.path))
    else:
        both = gradients(particles.log_p, [*theta, *samples], c.theta)
        g_theta, g = both[: len(theta)], both[len(theta) :]
        g = add_gradients(g, gradients(particles.log_q_reparam, samples, -c.theta))
    g = chain_back(leaves, g)
    if c.ratio is not None and gradient != "stl":
        dims = _dims(particles)
        g = [
            None if one is None else rescale(leaf, one, c.ratio, dims, density=not sleep)
            for leaf, one in zip(leaves, g, strict=True)
        ]

    score = score_term(particles, c, sleep=sleep)
    if score is not None and samples:
        # Upstream samples are parameters of later sites without reparameterisation: the same s, no r.
        passed = chain_back(leaves, gradients(score, samples, score.detach().new_ones(score.shape)))
        g = add_gradients(g, passed)
    if objective in ("rws", "piwae") and gradient in ("total", "vimco", "loo"):
        log_q = particles.score_reparam if sleep else particles.log_q_reparam
        explicit = c.score_reparam * log_q
        score = explicit if score is None else score + explicit

    scale = -particles.plates.scale
    tensors = [*theta, *(leaf.value for leaf in leaves)]
    pairs = [(t, scale * one) for t, one in zip(tensors, [*g_theta, *g], strict=True) if one is not None]
    value = scale * c.value.sum()
    if score is not None and score.requires_grad:
        pairs.append((scale * score.sum(), value.new_ones(())))
    return attach(value, [t for t, _ in pairs], [one for _, one in pairs])


def _dims(particles: Particles) -> tuple[int, ...]:
    """Batch dimensions of (K, *plates) in a sample: the particles' is missing when there was no plate."""
    for leaf in particles.leaves:
        batch = leaf.leaf.dim() - leaf.event_dim
        break
    else:
        return ()
    if leaf.particle is not None or particles.log_p.shape[0] == 1:
        return particles.plates.dims
    return (-batch, *particles.plates.dims)
