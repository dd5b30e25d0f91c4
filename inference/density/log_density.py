"""A Pyro model as one fast function of many unconstrained positions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from evidentia.inference.density.bound import Bound, bind
from evidentia.inference.density.evaluation import Evaluation, Target
from evidentia.inference.density.packing import draw_prior, pack, unpack
from evidentia.inference.density.phase import Phase
from evidentia.inference.density.sites import Site

__all__ = ["LogDensity", "compile_density"]


@final
class LogDensity:
    r"""The tempered log density of a model on unconstrained space, for many chains at once.

    \[ \log p_\beta(x) = \log p(z(x)) + \log|\partial z/\partial x| + \beta \log p(y | z(x)) \]

    Made by `compile_density`. Latent sites and everything tagged `infer={"prior": True}` are prior; observed
    sites and other factors are likelihood. Every result is detached.

    Attributes:
        level: "fx-vmap" (recorded), "vmap", "plate" or "loop".
        executor: how the recording is run: "jit", "fx" or "inductor".
        notices: why it is not the fastest level or executor.

    References:
        Bradbury, Frostig et al., 2018, JAX: composable transformations of Python and NumPy programs (the
        idea of mapping and recording a scalar density).
    """

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._betas: dict[tuple[float, int], Tensor] = {}

    def __repr__(self) -> str:
        names = ", ".join(f"{site.name}{list(site.shape)}" for site in self.sites)
        return (
            f"LogDensity({names}; dim={self.dim}, num_chains={self.num_chains}, level={self.level!r}, "
            f"executor={self.executor!r})"
        )

    @property
    def dim(self) -> int:
        """D, the number of unconstrained coordinates."""
        return self._bound.structure.dim

    @property
    def dtype(self) -> torch.dtype:
        """Type of positions and results."""
        return self._bound.joint.dtype

    @property
    def num_chains(self) -> int:
        """C of the recording; other numbers are cut into pieces and padded."""
        return self._bound.num_chains

    @property
    def sites(self) -> tuple[Site, ...]:
        """The continuous latent sites, in the order of the position."""
        return self._bound.structure.sites

    @property
    def level(self) -> str:
        """How chains are batched."""
        return self._bound.chosen.level

    @property
    def executor(self) -> str:
        """How the recording is run."""
        program = self._bound.chosen.program
        return "fx" if program is None else program.kind

    @property
    def largest(self) -> int:
        """Numbers in the largest tensor of one evaluation, as far as it is known; it decides on threads."""
        program = self._bound.chosen.program
        return self.num_chains * self.dim if program is None else program.largest

    @property
    def notices(self) -> tuple[str, ...]:
        """What did not go as asked for."""
        program = self._bound.chosen.program
        return self._bound.chosen.notices + (() if program is None else program.notices)

    @property
    def proper_prior(self) -> bool:
        """Whether the prior can be drawn from."""
        return not self._bound.structure.improper

    @property
    def has_likelihood(self) -> bool:
        """Whether beta changes anything."""
        return bool(self._bound.structure.likelihood)

    @property
    def discrete(self) -> dict[str, tuple[int, ...]]:
        """Discrete latent sites -> shape; they are inputs if compiled with discrete="given"."""
        return dict(self._bound.structure.discrete)

    def __call__(self, position: Tensor, beta: Tensor | float = 1.0) -> Tensor:
        """Log density (C,) in nats, without the gradient."""
        return self._bound.value((position, self._beta(beta, position)))[0]

    def evaluate(self, position: Tensor, beta: Tensor | float = 1.0) -> Evaluation:
        """Log density, gradient and log likelihood.

        Args:
            position: (C, D); any number of chains.
            beta: inverse temperature, () or (C,).

        Raises:
            ValueError: a position of the wrong shape.
        """
        self._check(position)
        return Evaluation(*self._bound.evaluate((position, self._beta(beta, position))))

    def target(self, beta: Tensor | float = 1.0) -> Target:
        """The density at one temperature as a plain target: position -> log density, gradient."""

        def target(position: Tensor) -> tuple[Tensor, Tensor]:
            found = self.evaluate(position, beta)
            return found.log_density, found.gradient

        return target

    def leapfrog(
        self,
        position: Tensor,
        momentum: Tensor,
        gradient: Tensor,
        step_size: Tensor | float,
        covariance: Tensor,
        beta: Tensor | float = 1.0,
    ) -> Phase:
        r"""One leapfrog step as one graph.

        \[ p_{1/2} = p + \tfrac e2 g, \quad q' = q + e\, S p_{1/2}, \quad p' = p_{1/2} + \tfrac e2 g(q') \]

        Args:
            position: (C, D).
            momentum: (C, D).
            gradient: (C, D), at `position` and `beta`.
            step_size: \(e\), () or (C, 1).
            covariance: \(S\), the inverse mass, (D, D) or (D,).
            beta: inverse temperature, () or (C,).
        """
        step = torch.as_tensor(step_size, dtype=position.dtype, device=position.device)
        phase = (position, momentum, gradient, step, covariance)
        return Phase(*self._bound.leapfrog(phase, self._beta(beta, position)))

    def unpack(self, position: Tensor) -> dict[str, Tensor]:
        """Positions (..., D) -> constrained values, site -> (..., *shape)."""
        return unpack(self._bound.structure, position)

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """Constrained values, site -> (..., *shape) -> positions (..., D).

        Raises:
            ValueError: a site is missing or has the wrong shape.
        """
        return pack(self._bound.structure, values, self.dtype)

    def prior_draws(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws from the prior, (num, D).

        Raises:
            ValueError: the prior is improper.
        """
        bound = self._bound
        with bound.tracing():
            args, kwargs = bound.first_arguments()
            return draw_prior(bound.structure, bound.joint.plain, args, kwargs, num, self.dtype, generator)

    def with_data(self, *args: Any, **kwargs: Any) -> LogDensity:
        """The same density of other data with the same shapes; nothing is recorded again.

        One plain run of the model checks that the recording follows the data; where it does not (a model
        that read numbers out of its data), the density is compiled anew.

        Raises:
            ValueError: other shapes, or supports that depend on the data.
        """
        return self._copy(self._bound.with_data(args, kwargs))

    def with_data_batch(self, *args: Any, **kwargs: Any) -> LogDensity:
        """The same density with one data set per chain: tensors with a leading C; others are shared.

        Its positions have exactly `num_chains` rows. It is recorded once; `with_data_batch` of the result, or
        again of this density, reuses the recording.

        Raises:
            ValueError: other shapes.
        """
        return self._copy(self._bound.with_data_batch(args, kwargs))

    def with_discrete(self, values: Mapping[str, Tensor]) -> LogDensity:
        """The same density at other values of the discrete sites, site -> (C, *shape) or (*shape).

        Raises:
            ValueError: not compiled with discrete="given", or a site is missing.
        """
        return self._copy(self._bound.with_discrete(values))

    def _copy(self, bound: Bound) -> LogDensity:
        other = copy.copy(self)
        other._bound = bound
        return other

    def _beta(self, beta: Tensor | float, position: Tensor) -> Tensor:
        chains = len(position)
        if isinstance(beta, Tensor):
            return beta.to(dtype=position.dtype, device=position.device).expand(chains)
        key = (float(beta), chains)
        found = self._betas.get(key)
        if found is None or found.device != position.device:
            if len(self._betas) > 64:
                self._betas.clear()
            found = torch.full((chains,), float(beta), dtype=self.dtype, device=position.device)
            self._betas[key] = found
        return found

    def _check(self, position: Tensor) -> None:
        if position.dim() != 2 or position.shape[1] != self.dim or position.dtype != self.dtype:
            raise ValueError(
                f"position: expected (chains, {self.dim}) of {self.dtype}, got {tuple(position.shape)} of "
                f"{position.dtype}. Fix: density.pack(values)"
            )


def compile_density(
    model: Callable[..., Any],
    *args: Any,
    num_chains: int,
    executor: str = "auto",
    dtype: torch.dtype | None = None,
    discrete: str = "sum",
    seed: int = 0,
    **kwargs: Any,
) -> LogDensity:
    """Turn a Pyro model, written for one draw, into a log density of many chains.

    The model runs twice to find its sites, is mapped over chains, recorded once with its data as inputs, and
    compared with plain runs at random points. Where that fails, the next level is taken, with a warning.
    `pyro.param` and modules' parameters are constants. The caller's random stream is put back.

    Args:
        model: a Pyro model.
        args: its arguments, as are further keywords. Floating-point tensors are cast to `dtype`.
        num_chains: C of the recording; other numbers work and are padded to it.
        executor: "auto" (TorchScript, else generated code), "fx", "jit" or "inductor".
        dtype: of positions and of the constants that the model makes; that of the first floating-point
            argument when None, else torch's default.
        discrete: "sum" enumerates discrete latents; "given" makes them inputs (see `with_discrete`).
        seed: of the runs that find sites and of the check's points.

    Returns:
        The density.

    Raises:
        ValueError: no latent sites; a discrete site that cannot be enumerated; a subsampled plate; a site
            without a bijection; sites that differ between two runs; a random operation in the model; a
            density that is finite nowhere; an unknown word.

    References:
        Bingham et al., 2019, Pyro: deep universal probabilistic programming.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", dist.Normal(0.0, scale), obs=y)
        >>> density = compile_density(model, torch.tensor([0.5, -1.0]), num_chains=3)
        >>> density.evaluate(torch.zeros(3, 1)).log_likelihood
        tensor([-2.4629, -2.4629, -2.4629])
    """
    return LogDensity(bind(model, args, kwargs, num_chains, executor, dtype, discrete, seed))
