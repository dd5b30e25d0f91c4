"""The particle objectives: one class, and keywords for the objective and for its gradient."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor

from evidentia.inference.objectives.coefficients import (
    Coefficients,
    check_combination,
    coefficients,
    promise,
)
from evidentia.inference.objectives.dead_rows import warn_dead_rows
from evidentia.inference.objectives.leaf_cut import Particles, run_particles
from evidentia.inference.objectives.local_plates import local_loss
from evidentia.inference.objectives.objective import Objective
from evidentia.inference.objectives.sequential import run_one_by_one
from evidentia.inference.objectives.surrogate import cut_loss, is_total, total_loss

__all__ = ["BiasedGradientWarning", "ParticleELBO"]

ObjectiveName = Literal[
    "elbo", "iwae", "rws", "renyi", "tail_adaptive", "miwae", "piwae", "ciwae", "jackknife", "cubo"
]
GradientName = Literal["total", "stl", "dreg", "vimco", "loo"]
_BETTER = {"iwae": "vimco", "miwae": "vimco", "piwae": "vimco", "ciwae": "vimco"}


class BiasedGradientWarning(UserWarning):
    """A combination was asked for whose gradient is biased for its value, and which has unbiased siblings.

    References:
        none; bookkeeping.
    """


@final
class ParticleELBO(Objective):
    r"""An objective formed from the log-weights of K particles, with a gradient of one's choice.

    \[ \log w_k=\log p(x,z_k)-\log q(z_k),\qquad
    \mathcal L=c\sum_{\text{plates}} F(\log w_1,\dots,\log w_K) \]

    F is the mean for "elbo" and \(\log\frac1K\sum w\) for "iwae". There is one log-weight for every element
    of the plates that contain *all* sites; other plates are summed inside it. c is full size over batch size
    of those plates, so the loss of a minibatch is unbiased for that of all the data. With global latents the
    weights are joint over everything, valid but degenerate for large data: see `local_plates`.
    `poutine.scale` acts inside the log-weights: a tempered target.

    The gradient is unbiased for the value, except "stl" with several particles for all but the ELBO, "rws"
    and "tail_adaptive"; `promise` and the printed object say so. "dreg" and "stl" are not of lower variance
    everywhere: they win near the posterior and may lose far from it.

    Args:
        objective: "elbo", "iwae", "rws", "renyi", "tail_adaptive", "miwae", "piwae", "ciwae", "jackknife" or
            "cubo".
        gradient: "total" (plain derivative, REINFORCE for sites that are not reparameterised), "stl" (no
            explicit part), "dreg" (doubly reparameterised), "vimco" or "loo" (baselines for such sites).
        num_particles: K; for "miwae" and "piwae" the total over the groups.
        outer: number of groups of "miwae" and "piwae".
        alpha: order of "renyi"; 1 - n for "cubo".
        beta: weight of the ELBO in "ciwae"; power of the rank in "tail_adaptive".
        baseline: for the score sites of "elbo" with one particle, nats, broadcasting with (*plates).
        max_plate_nesting: number of plate dimensions of the pair; found by one more run when infinite.
        vectorize_particles: draw all particles in one run. False draws them one by one, for programs that
            cannot take a dimension more; the log-weights are stacked.
        local_plates: names of plates whose elements are independent given the global latents. Objective
            "miwae" then draws `outer` samples of the global latents and, for each, an inner bound per plate
            element. "auto" forms no inner bounds.

    Raises:
        ValueError: a combination or an option that does not exist; at the first call, sites that do not
            match, and "dreg" with a site that is not reparameterised.
        NotImplementedError: a subsampled plate that does not contain all sites, for all but the ELBO.

    References:
        Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders.
        Tucker, Lawson, Gu and Maddison, 2019. Doubly reparameterized gradient estimators for Monte Carlo
        objectives.
        Roeder, Wu and Duvenaud, 2017. Sticking the landing.
        Rainforth et al., 2018. Tighter variational bounds are not necessarily better.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> x = torch.tensor([0.9, -0.3])
        >>> def model():
        ...     with pyro.plate("data", 2):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("obs", dist.Normal(z, 1.0), obs=x)
        >>> def guide():
        ...     with pyro.plate("data", 2):
        ...         pyro.sample("z", dist.Normal(0.5 * x, 0.5**0.5))
        >>> exact = -dist.Normal(0.0, 2.0**0.5).log_prob(x).sum()
        >>> abs(ParticleELBO("iwae", "dreg", num_particles=4).loss(model, guide) - float(exact)) < 1e-5
        True
    """

    def __init__(
        self,
        objective: ObjectiveName = "iwae",
        gradient: GradientName = "dreg",
        *,
        num_particles: int = 1,
        outer: int = 1,
        alpha: float | None = None,
        beta: float | None = None,
        baseline: Tensor | float | None = None,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = True,
        local_plates: str | Sequence[str] = "auto",
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
        )
        check_combination(objective, gradient, num_particles, outer, alpha, beta)
        self.objective, self.gradient = objective, gradient
        self.outer, self.alpha, self.beta, self.baseline = outer, alpha, beta, baseline
        names = (local_plates,) if isinstance(local_plates, str) else tuple(local_plates)
        self.local_plates: tuple[str, ...] = () if names == ("auto",) else names
        if self.local_plates:
            self._check_local()
        if gradient == "stl" and not self.promise.unbiased and objective != "tail_adaptive":
            warnings.warn(
                f"gradient 'stl' of objective {objective!r} is biased with {num_particles} particles. Fix: "
                "gradient='dreg', which is not",
                BiasedGradientWarning,
                stacklevel=2,
            )

    @property
    def promise(self) -> Any:
        """What value and gradient promise: `Promise(bound, unbiased, text)`."""
        return promise(self.objective, self.gradient, num_particles=self.num_particles, alpha=self.alpha)

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the objective; its backward pass gives the gradient estimate (see the class).

        Args:
            model: a Pyro program.
            guide: a Pyro program.
            args: of both programs.
            kwargs: of both programs.

        Returns:
            Scalar, nats for the whole data set.

        Raises:
            ValueError: sites that do not match or that the gradient cannot treat.
            NotImplementedError: see the class.

        References:
            none; see the class.
        """
        if self.local_plates:
            nesting = self.nesting(model, guide, args, kwargs)
            return local_loss(
                model,
                guide,
                args,
                kwargs,
                names=self.local_plates,
                outer=self.outer,
                inner=self.num_particles // self.outer,
                gradient=self.gradient,
                max_plate_nesting=int(nesting),
            )
        total = is_total(self.objective, self.gradient)
        particles = self.particles(model, guide, args, kwargs, cut=not total)
        plain = self.objective == "elbo" and not particles.other_sites and self.baseline is None
        if plain:
            c = self._plain(particles)
            if total:
                return -(particles.plates.scale * c.value.sum())
        else:
            c = coefficients(
                particles.log_weight.detach(),
                self.objective,
                self.gradient,
                outer=self.outer,
                alpha=self.alpha,
                beta=self.beta,
                baseline=self.baseline,
            )
        if particles.other_sites and c.score_other is None:
            raise self._no_score(particles.other_sites[0])
        if not torch.is_grad_enabled():
            return -(particles.plates.scale * c.value.sum())
        if total:
            return total_loss(particles, c)
        return cut_loss(particles, c, self.objective, self.gradient)

    def particles(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        cut: bool = False,
    ) -> Particles:
        """Draw this objective's particles once.

        Args:
            model: a Pyro program.
            guide: a Pyro program.
            args: of both programs.
            kwargs: of both programs.
            cut: cut the samples off the guide's parameters.

        Returns:
            `Particles`.

        References:
            none; bookkeeping.
        """
        kwargs = {} if kwargs is None else kwargs
        run = run_particles if self.vectorize_particles else run_one_by_one
        nesting = self.max_plate_nesting
        if self.vectorize_particles and self.num_particles > 1:
            nesting = self.nesting(model, guide, args, kwargs)
        return run(
            model,
            guide,
            args,
            kwargs,
            num_particles=self.num_particles,
            max_plate_nesting=nesting,
            cut=cut,
            path=not (self.objective == "rws" and self.gradient == "total"),
            multi_sample=self.objective != "elbo",
        )

    @staticmethod
    def _plain(particles: Particles) -> Coefficients:
        """The ELBO's coefficients without score sites, spared the work for those; value with its history."""
        log_weight = particles.log_weight
        warn_dead_rows(log_weight.detach())
        ones = torch.ones_like(log_weight, requires_grad=False)
        a = ones / log_weight.shape[0]
        return Coefficients(log_weight.mean(0), a, a, ones, a, None)

    def _check_local(self) -> None:
        if self.objective not in ("miwae", "iwae") or not self.vectorize_particles:
            raise ValueError(
                f"local_plates: expected objective 'miwae' (or 'iwae', one outer sample) with vectorised "
                f"particles, got {self.objective!r}, vectorize_particles={self.vectorize_particles}. Fix: "
                f"MIWAE(outer=…, inner=…, local_plates={self.local_plates!r})"
            )

    def _no_score(self, site: str) -> ValueError:
        better = _BETTER.get(self.objective)
        if better:
            fix = f"gradient={better!r} or gradient='loo'"
        else:
            fix = "gradient='total'" if self.objective != "tail_adaptive" else "objective='renyi'"
        return ValueError(
            f"site '{site}': expected a reparameterised distribution, which gradient {self.gradient!r} of "
            f"objective {self.objective!r} needs, got one without rsample. Fix: {fix}"
        )

    def __repr__(self) -> str:
        shown = [repr(self.objective), repr(self.gradient), f"num_particles={self.num_particles}"]
        if self.outer != 1:
            shown.append(f"outer={self.outer}")
        for name in ("alpha", "beta"):
            if getattr(self, name) is not None:
                shown.append(f"{name}={getattr(self, name)}")
        if self.local_plates:
            shown.append(f"local_plates={self.local_plates}")
        return f"ParticleELBO({', '.join(shown)})  # {self.promise.text}"
