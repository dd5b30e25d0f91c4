"""REBAR and RELAX: a relaxed, reparameterised control variate for the score function of bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.gradients.score_function import lift

__all__ = ["Relaxed", "controlled_gradient", "rebar", "relax", "relaxed_bits"]


class Relaxed(NamedTuple):
    r"""Bits with the real numbers whose sign they are, drawn twice.

    Attributes:
        bits: b = 1[z > 0], (n, *batch, D), without history.
        free: \(z=\theta+\mathrm{logit}\,u\), attached to the logits.
        tied: \(\tilde z\), drawn given b with the same law as z given b, attached to the logits.

    References:
        Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, 2017. REBAR: low-variance, unbiased gradient
        estimates for discrete latent variable models.
    """

    bits: Tensor
    free: Tensor
    tied: Tensor


def relaxed_bits(logits: Tensor, num_draws: int) -> Relaxed:
    r"""Draw \(z=\theta+\mathrm{logit}\,u\), \(b=1[z>0]\) and \(\tilde z=\theta+\mathrm{logit}\,v'\).

    With \(p=\mathrm{sigmoid}(\theta)\): \(v'=1-p+vp\) if b = 1 and \(v'=v(1-p)\) if b = 0.

    Args:
        logits: θ, (*batch, D).
        num_draws: n.

    Returns:
        `Relaxed`; each (n, *batch, D).

    References:
        Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, 2017. REBAR: low-variance, unbiased gradient
        estimates for discrete latent variable models.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> b, z, tied = relaxed_bits(torch.zeros(3), 2)
        >>> bool(((z > 0) == (b > 0)).all()), bool(((tied > 0) == (b > 0)).all())
        (True, True)
    """
    tiny = torch.finfo(logits.dtype).eps
    u, v = torch.rand((2, num_draws, *logits.shape), dtype=logits.dtype, device=logits.device).clamp(
        tiny, 1 - tiny
    )
    free = logits + torch.logit(u)
    bits = (free.detach() > 0).to(logits.dtype)
    # log v'/(1-v') in closed form: v' or 1 - v' close to 0 would lose all its digits.
    p, q = logits.sigmoid(), (-logits).sigmoid()
    above = (q + v * p).log() - ((1 - v) * p).log()
    below = (v * q).log() - (p + (1 - v) * q).log()
    return Relaxed(bits, free, logits + torch.where(bits > 0, above, below))


def controlled_gradient(
    values: Tensor,
    free_values: Tensor,
    tied_values: Tensor,
    bits: Tensor,
    logits: Tensor,
    scale: Tensor | float = 1.0,
    *,
    create_graph: bool = False,
) -> Tensor:
    r"""The score function of f with the control variate c, corrected by c's own gradient.

    \[ g=\big[f(b)-\eta\,c(\tilde z)\big]\,\partial_\theta\log p(b)
    +\eta\,\partial_\theta c(z)-\eta\,\partial_\theta c(\tilde z) \]

    Unbiased for \(\nabla_\theta\,\mathbb E f\) with any c and η. Both may be trained on
    \(\mathbb E\lVert g\rVert^2\), whose gradient is that of the variance: pass `create_graph=True`.

    Args:
        values: f(b), (n, *batch).
        free_values: c(z), (n, *batch), attached to the logits.
        tied_values: c(z̃), (n, *batch), attached to the logits.
        bits: b, (n, *batch, D).
        logits: θ, (*batch, D), requiring gradients. c must depend on this very tensor.
        scale: η.
        create_graph: keep the history of g in η and in the parameters of c.

    Returns:
        (*batch, D), the unit of f; detached unless `create_graph`.

    References:
        Grathwohl, Choi, Wu, Roeder and Duvenaud, 2018. Backpropagation through the void: optimizing control
        variates for black-box gradient estimation.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> theta = torch.zeros(1, requires_grad=True)
        >>> b, z, tied = relaxed_bits(theta, 20000)
        >>> c = [x.sigmoid().sum(-1) for x in (z, tied)]
        >>> bool((controlled_gradient(b.sum(-1), *c, b, theta) - 0.25).abs() < 0.01)
        True
    """
    difference = scale * (free_values - tied_values)
    (path,) = torch.autograd.grad(
        difference.sum(), logits, create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
        residual = values.detach() - scale * tied_values
        score = bits - logits.detach().sigmoid()
        g = (lift(residual, bits) * score).mean(0)
        if path is not None:
            g = g + path / values.shape[0]
    return g if create_graph else g.detach()


def rebar(
    f: Callable[[Tensor], Tensor],
    logits: Tensor,
    num_draws: int,
    *,
    scale: Tensor | float = 1.0,
    temperature: Tensor | float = 0.5,
    create_graph: bool = False,
) -> Tensor:
    r"""REBAR: the control variate is f itself at relaxed bits, \(c(z)=f(\mathrm{sigmoid}(z/\lambda))\).

    Args:
        f: from bits or relaxed bits (m, *batch, D) to (m, *batch); differentiable.
        logits: θ, (*batch, D).
        num_draws: n.
        scale: η.
        temperature: λ > 0.
        create_graph: see `controlled_gradient`.

    Returns:
        (*batch, D), the unit of f.

    References:
        Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, 2017. REBAR: low-variance, unbiased gradient
        estimates for discrete latent variable models.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> g = rebar(lambda b: (b - 0.4).square().sum(-1), torch.zeros(2), 20000)
        >>> bool((g - 0.05).abs().max() < 0.01)
        True
    """
    return relax(
        f,
        lambda z: f((z / temperature).sigmoid()),
        logits,
        num_draws,
        scale=scale,
        create_graph=create_graph,
    )


def relax(
    f: Callable[[Tensor], Tensor],
    control: Callable[[Tensor], Tensor],
    logits: Tensor,
    num_draws: int,
    *,
    scale: Tensor | float = 1.0,
    create_graph: bool = False,
) -> Tensor:
    r"""RELAX: the control variate c is any differentiable function of z, a network for example.

    Args:
        f: from bits (n, *batch, D) to (n, *batch); it needs no derivative.
        control: c, from real numbers (m, *batch, D) to (m, *batch).
        logits: θ, (*batch, D).
        num_draws: n.
        scale: η; a network can do without.
        create_graph: see `controlled_gradient`.

    Returns:
        (*batch, D), the unit of f.

    References:
        Grathwohl, Choi, Wu, Roeder and Duvenaud, 2018. Backpropagation through the void: optimizing control
        variates for black-box gradient estimation.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> g = relax(lambda b: b.sum(-1), lambda z: z.tanh().sum(-1), torch.zeros(2), 20000)
        >>> bool((g - 0.25).abs().max() < 0.01)
        True
    """
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        bits, free, tied = relaxed_bits(leaf, num_draws)
        both = control(torch.cat([free, tied]))
        return controlled_gradient(
            f(bits), both[:num_draws], both[num_draws:], bits, leaf, scale, create_graph=create_graph
        )
