"""`sample_minibatch`: many chains of a stochastic gradient sampler on a model with a subsampled plate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.density.minibatch import MinibatchDensity
from evidentia.inference.idata.draws import Draws
from evidentia.inference.mcmc.control_variate import ControlVariate, climb
from evidentia.inference.mcmc.sghmc import sghmc_init, sghmc_step
from evidentia.inference.mcmc.starts import uniform_start
from evidentia.inference.mcmc.stochastic_gradient import (
    GradientEstimate,
    decreasing_step_size,
    psgld_init,
    psgld_step,
    sgld_init,
    sgld_step,
)

__all__ = ["METHODS", "sample_minibatch"]

METHODS = ("sgld", "psgld", "sghmc")


def sample_minibatch(
    model: Callable[..., Any],
    *args: Any,
    batch_size: int,
    step_size: float,
    method: str = "sgld",
    num_chains: int = 64,
    num_draws: int = 200,
    warmup_steps: int = 200,
    thinning: int = 1,
    decay: float = 0.0,
    control_variate: bool = False,
    settings: Mapping[str, float] | None = None,
    start: Tensor | None = None,
    seed: int | None = None,
    executor: str = "auto",
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> Draws:
    r"""Draw from an approximation of the posterior of a model whose data are too many for every step.

    The chains have minibatches of their own. There is no accept step, so that the draws are biased (they are
    marked so): for ordinary data sets use `sample`. A fixed step size keeps its bias; a decreasing one loses
    it slowly, and its draws should be weighted by the step sizes in `stats`.

    Args:
        model: has one `pyro.plate(name, N, subsample_size=batch_size)` and indexes its data by its rows.
        args: the model's arguments, the whole data set; as are further keywords.
        batch_size: rows of a minibatch.
        step_size: \(h\), the coefficient of the drift, in the scale of the *whole* data: a small part of the
            posterior variances (for "psgld" in units of \(1/G\)).
        method: "sgld", "psgld" or "sghmc".
        num_chains: C.
        num_draws: draws kept of each chain.
        warmup_steps: steps before the first draw.
        thinning: keep every that-many-th step.
        decay: \(\gamma\) of `decreasing_step_size`; fixed when 0.
        control_variate: climb to the mode first and use `ControlVariate`.
        settings: keywords of the step, such as friction=0.1 for "sghmc".
        start: unconstrained positions (C, D) or (D,); uniform on (-2, 2) when None, or around the mode.
        seed: of everything random; drawn from torch's generator when None.
        executor: as in `compile_density`.
        dtype: as in `compile_density`.

    Returns:
        `Draws` with `adjusted` False; `stats["lp"]` are estimates.

    Raises:
        ValueError: an unknown method, a number out of range, a model without a subsampled plate.

    References:
        Welling, Teh, 2011, Bayesian learning via stochastic gradient Langevin dynamics. Chen, Fox, Guestrin,
        2014, Stochastic gradient Hamiltonian Monte Carlo.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y), subsample_size=10) as rows:
        ...         pyro.sample("obs", dist.Normal(mean, 1.0), obs=y[rows])
        >>> draws = sample_minibatch(
        ...     model, torch.ones(100), batch_size=10, step_size=1e-3, num_draws=20, seed=0)
        >>> draws.adjusted, abs(float(draws.samples["mean"].mean()) - 1.0) < 0.1
        (False, True)
    """
    _check(method, step_size, num_chains, num_draws, warmup_steps, thinning)
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    generator = torch.Generator().manual_seed(seed)
    minibatch = MinibatchDensity(
        model, args, batch_size, kwargs=kwargs, num_chains=num_chains, executor=executor, dtype=dtype
    )
    density = minibatch.density(num_chains)
    if start is None:
        position = uniform_start(density, num_chains, density.dim, density.dtype, generator)
    else:
        position = start.to(density.dtype).expand(num_chains, density.dim).contiguous()
    estimate: GradientEstimate = minibatch
    if control_variate:
        mode = climb(minibatch, position, generator=generator).median(0).values
        estimate = ControlVariate(minibatch, mode)
        position = position if start is not None else mode.expand(num_chains, -1).contiguous()
    state, step = _sampler(method, position, estimate, step_size, dict(settings or {}), generator)
    kept, stats = [], {"lp": [], "diverging": [], "step_size": []}  # type: ignore[var-annotated]
    skipped = torch.zeros(num_chains, dtype=torch.bool)
    with torch.no_grad():
        for number in range(warmup_steps + num_draws * thinning):
            size = decreasing_step_size(number, step_size, decay=decay)
            state, diverging = step(state, size)
            since = number + 1 - warmup_steps
            skipped = skipped | diverging if since > 0 else skipped
            if since > 0 and since % thinning == 0:
                kept.append(state.position)
                stats["lp"].append(state.log_density)
                stats["diverging"].append(skipped)
                stats["step_size"].append(torch.full((num_chains,), size, dtype=torch.float64))
                skipped = torch.zeros_like(skipped)
    unconstrained = torch.stack(kept, 1)
    return Draws(
        density.unpack(unconstrained),
        {name: torch.stack(values, 1) for name, values in stats.items()},
        {"seed": seed, "kernel": method, "num_chains": num_chains},
        "max_steps",
        method,
        unconstrained=unconstrained,
        adjusted=False,
    )


def _sampler(
    method: str,
    position: Tensor,
    estimate: GradientEstimate,
    step_size: float,
    settings: dict[str, Any],
    generator: torch.Generator,
) -> tuple[Any, Callable[[Any, float], tuple[Any, Tensor]]]:
    """A first state, and the step that takes it on."""
    if method == "sghmc":
        first: Any = sghmc_init(position, estimate, step_size, generator=generator)
        move: Callable[..., tuple[Any, Tensor]] = sghmc_step
    elif method == "psgld":
        first, move = psgld_init(position, estimate, generator), psgld_step
    else:
        first, move = sgld_init(position, estimate, generator), sgld_step
    return first, lambda state, size: move(state, estimate, size, generator=generator, **settings)


def _check(method: str, step_size: float, *counts: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method: expected one of {list(METHODS)}, got {method!r}. Fix: method='sgld'")
    if not step_size > 0:
        raise ValueError(f"step_size: expected a positive number, got {step_size}. Fix: step_size=0.1 / N")
    words = ("num_chains", "num_draws", "warmup_steps", "thinning")
    for word, value, least in zip(words, counts, (1, 1, 0, 1), strict=True):
        if value < least:
            raise ValueError(f"{word}: expected a number >= {least}, got {value}. Fix: {word}={least}")
