"""Short names for common objectives; each returns a `ParticleELBO`."""

from __future__ import annotations

from typing import Any

from evidentia.inference.objectives.particle import ParticleELBO

__all__ = [
    "CIWAE",
    "CUBO",
    "ELBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "RWS",
    "STL",
    "VIMCO",
    "DReG",
    "Jackknife",
    "Renyi",
    "TailAdaptive",
]


def ELBO(num_particles: int = 1, **options: Any) -> ParticleELBO:  # noqa: N802
    r"""\(\frac1K\sum_k\log w_k\) with its total derivative.

    Args:
        num_particles: K.
        options: keywords of `ParticleELBO`.

    References:
        Kingma and Welling, 2014. Auto-encoding variational Bayes.

    Example:
        >>> ELBO().objective, ELBO().gradient
        ('elbo', 'total')
    """
    return ParticleELBO("elbo", "total", num_particles=num_particles, **options)


def STL(num_particles: int = 1, **options: Any) -> ParticleELBO:  # noqa: N802
    """The ELBO without the explicit part of the guide's gradient: zero noise where the guide is exact.

    Args:
        num_particles: K.
        options: keywords of `ParticleELBO`.

    References:
        Roeder, Wu and Duvenaud, 2017. Sticking the landing.
    """
    return ParticleELBO("elbo", "stl", num_particles=num_particles, **options)


def IWAE(num_particles: int = 5, *, gradient: Any = "total", **options: Any) -> ParticleELBO:  # noqa: N802
    r"""\(\log\frac1K\sum_k w_k\), with its total derivative unless another gradient is named.

    Args:
        num_particles: K.
        gradient: "total", "dreg", "vimco", "loo" or "stl".
        options: keywords of `ParticleELBO`.

    References:
        Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders.
    """
    return ParticleELBO("iwae", gradient, num_particles=num_particles, **options)


def DReG(num_particles: int = 5, **options: Any) -> ParticleELBO:  # noqa: N802
    """IWAE with the doubly reparameterised gradient; every site must be reparameterised.

    Args:
        num_particles: K.
        options: keywords of `ParticleELBO`.

    References:
        Tucker, Lawson, Gu and Maddison, 2019. Doubly reparameterized gradient estimators for Monte Carlo
        objectives.
    """
    return ParticleELBO("iwae", "dreg", num_particles=num_particles, **options)


def VIMCO(num_particles: int = 5, **options: Any) -> ParticleELBO:  # noqa: N802
    """IWAE for discrete sites: each particle's baseline comes from the others.

    Args:
        num_particles: K ≥ 2.
        options: keywords of `ParticleELBO`.

    References:
        Mnih and Rezende, 2016. Variational inference for Monte Carlo objectives.
    """
    return ParticleELBO("iwae", "vimco", num_particles=num_particles, **options)


def RWS(num_particles: int = 5, *, gradient: Any = "total", **options: Any) -> ParticleELBO:  # noqa: N802
    """Reweighted wake-sleep (wake phases): IWAE for the model, KL(p‖q) for the guide, per datum.

    Args:
        num_particles: K ≥ 2.
        gradient: "total" or "dreg".
        options: keywords of `ParticleELBO`.

    References:
        Bornschein and Bengio, 2015. Reweighted wake-sleep.
        Le, Kosiorek, Siddharth, Teh and Wood, 2020. Revisiting reweighted wake-sleep for models with
        stochastic control flow.
    """
    return ParticleELBO("rws", gradient, num_particles=num_particles, **options)


def Renyi(  # noqa: N802
    num_particles: int = 5, *, alpha: float = 0.5, gradient: Any = "dreg", **options: Any
) -> ParticleELBO:
    r"""\(\frac1{1-\alpha}\log\frac1K\sum_k w_k^{1-\alpha}\).

    Args:
        num_particles: K.
        alpha: order; 0 is IWAE, 1 the ELBO.
        gradient: "dreg" or "total" (for sites without reparameterisation).
        options: keywords of `ParticleELBO`.

    References:
        Li and Turner, 2016. Rényi divergence variational inference.
    """
    return ParticleELBO("renyi", gradient, num_particles=num_particles, alpha=alpha, **options)


def TailAdaptive(  # noqa: N802
    num_particles: int = 5, *, beta: float = -1.0, gradient: Any = "total", **options: Any
) -> ParticleELBO:
    """The ELBO's particles weighted by the ranks of their weights; the loss reports the ELBO.

    Args:
        num_particles: K.
        beta: power of the rank.
        gradient: "total" or "stl".
        options: keywords of `ParticleELBO`.

    References:
        Wang, Liu and Liu, 2018. Variational inference with tail-adaptive f-divergence.
    """
    return ParticleELBO("tail_adaptive", gradient, num_particles=num_particles, beta=beta, **options)


def MIWAE(  # noqa: N802
    outer: int = 2, inner: int = 5, *, gradient: Any = "dreg", **options: Any
) -> ParticleELBO:
    """The mean of `outer` IWAE bounds of `inner` particles; with `local_plates=` one inner bound per element.

    Args:
        outer: groups, or global samples.
        inner: particles in each.
        gradient: of the inner bounds.
        options: keywords of `ParticleELBO`.

    References:
        Rainforth et al., 2018. Tighter variational bounds are not necessarily better.

    Example:
        >>> MIWAE(3, 4).num_particles
        12
    """
    return ParticleELBO("miwae", gradient, num_particles=outer * inner, outer=outer, **options)


def PIWAE(  # noqa: N802
    outer: int = 2, inner: int = 5, *, gradient: Any = "dreg", **options: Any
) -> ParticleELBO:
    """IWAE of all particles for the model, MIWAE for the guide.

    Args:
        outer: groups.
        inner: particles in each.
        gradient: of the guide's bounds.
        options: keywords of `ParticleELBO`.

    References:
        Rainforth et al., 2018. Tighter variational bounds are not necessarily better.
    """
    return ParticleELBO("piwae", gradient, num_particles=outer * inner, outer=outer, **options)


def CIWAE(  # noqa: N802
    num_particles: int = 5, *, beta: float = 0.5, gradient: Any = "dreg", **options: Any
) -> ParticleELBO:
    r"""\(\beta\,\mathrm{ELBO}+(1-\beta)\,\mathrm{IWAE}\).

    Args:
        num_particles: K.
        beta: weight of the ELBO.
        gradient: "dreg", "total", "vimco", "loo" or "stl".
        options: keywords of `ParticleELBO`.

    References:
        Rainforth et al., 2018. Tighter variational bounds are not necessarily better.
    """
    return ParticleELBO("ciwae", gradient, num_particles=num_particles, beta=beta, **options)


def CUBO(  # noqa: N802
    num_particles: int = 5, *, order: float = 2.0, gradient: Any = "dreg", **options: Any
) -> ParticleELBO:
    r"""\(\frac1n\log\frac1K\sum_k w_k^n\): consistent for an upper bound, below it at finite K; maximised.

    Args:
        num_particles: K.
        order: n > 1.
        gradient: "dreg" or "total".
        options: keywords of `ParticleELBO`.

    References:
        Dieng, Tran, Ranganath, Paisley and Blei, 2017. Variational inference via χ upper bound minimization.
    """
    return ParticleELBO("cubo", gradient, num_particles=num_particles, alpha=1.0 - order, **options)


def Jackknife(num_particles: int = 5, *, gradient: Any = "total", **options: Any) -> ParticleELBO:  # noqa: N802
    r"""\(K L_K-(K-1)\,\overline{L_{K-1}}\): bias of order \(K^{-2}\), and no bound. For evaluation.

    Args:
        num_particles: K ≥ 2.
        gradient: "total" or "dreg".
        options: keywords of `ParticleELBO`.

    References:
        Nowozin, 2018. Debiasing evidence approximations: on importance-weighted autoencoders and jackknife
        variational inference.
    """
    return ParticleELBO("jackknife", gradient, num_particles=num_particles, **options)
