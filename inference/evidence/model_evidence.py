"""`model_evidence`: the log evidence of a Pyro model by any method, with its error bar and its warnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from evidentia.inference.density.log_density import LogDensity, compile_density
from evidentia.inference.density.threads import enough_threads
from evidentia.inference.evidence.guards import warned
from evidentia.inference.evidence.log_evidence import LogEvidence
from evidentia.inference.evidence.methods import Problem, check_method, run_method
from evidentia.inference.evidence.observed import observed_sites
from evidentia.inference.idata.draws import Draws
from evidentia.inference.mcmc.sample import sample

__all__ = ["model_evidence"]


def model_evidence(
    model: Callable[..., Any] | LogDensity,
    *args: Any,
    method: str = "default",
    draws: Draws | Mapping[str, Tensor] | Tensor | None = None,
    num_draws: int = 200,
    warmup_steps: int = 100,
    num_chains: int | None = None,
    seed: int | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> LogEvidence:
    r"""log p(data | model) of a Pyro model, in nats, computed in double precision on unconstrained space.

    ===============  =============================================================  ===========
    method           estimator                                                      needs draws
    ===============  =============================================================  ===========
    "default"        warp-III bridge, beside the rough value of tempered SMC        yes
    "warp"           warp-III bridge (`bridge`)                                     yes
    "bridge"         bridge with a normal proposal (`bridge`)                       yes
    "importance"     importance sampling from a Student-t (`importance_fit`)        yes
    "laplace"        modes, corrected by importance sampling (`laplace`)            no
    "smc"            tempered particles (`tempered_smc`)                            no
    "ais"            annealed importance sampling (`annealed_importance`)           no
    "stepping"       stepping-stone over an adaptive ladder (`stepping_stone`)      no
    "thermodynamic"  thermodynamic integration (`thermodynamic_integration`)        no
    ===============  =============================================================  ===========

    The harmonic mean is refused: its variance is infinite.

    Args:
        model: a Pyro model, or a `LogDensity` of one (then without arguments).
        args: the model's arguments, as are further keywords.
        method: a word of the table.
        draws: of the posterior: what `sample` returned, constrained values (C, N, *shape) by site, or
            unconstrained positions (C, N, D). Drawn by `sample` when a method needs them and they are None.
        num_draws, warmup_steps, num_chains: for `sample`.
        seed: of everything random; drawn from torch's generator when None.
        options: further keywords of the estimator.

    Returns:
        The evidence. Diagnostics: those of the estimator, `seed`, `observed` (site -> shape and digest, so
        that evidences of different data are never compared) and, for "default", `smc` (a LogEvidence).
        With "default", a disagreement of more than 3 standard errors and 1 nat (times the spread of the SMC
        copies, if that is larger than 1) is a warning.

    Warns:
        EvidenceWarning: whatever the estimator says against itself; also in `diagnostics["warnings"]`.

    Raises:
        ValueError: an unknown method, "harmonic", a model that cannot be compiled, or as the estimator.

    References:
        Meng and Schilling, 2002. Warp bridge sampling.
        Del Moral, Doucet and Jasra, 2006. Sequential Monte Carlo samplers.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)
        >>> from evidentia.inference.evidence.conjugate import normal_mean
        >>> y = torch.tensor([0.5, 1.0])
        >>> found = model_evidence(model, y, method="laplace", seed=0)
        >>> abs(found.value - normal_mean(y).value) < 1e-6, (found - normal_mean(y)).data_checked
        (True, True)
    """
    check_method(method)  # before anything is compiled
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    compiled = isinstance(model, LogDensity) or hasattr(model, "evaluate")
    if compiled and (args or kwargs):
        raise ValueError(
            "model_evidence: a LogDensity has its data already, but arguments were given. "
            "Fix: model_evidence(density.with_data(*args))"
        )
    chains = num_chains or (_chains_of(draws) if draws is not None else 128)
    density: Any = model
    if not compiled:
        density = compile_density(model, *args, num_chains=chains, dtype=torch.float64, seed=seed, **kwargs)

    def make_draws() -> tuple[Tensor, Draws | None]:
        if draws is not None:
            return _unconstrained(draws, density), draws if isinstance(draws, Draws) else None
        if not isinstance(density, LogDensity):
            raise ValueError(
                f"model_evidence: method {method!r} needs draws, and a plain density is not sampled here. "
                "Fix: draws=..., or model_evidence(model, *args)"
            )
        found = sample(density, num_draws=num_draws, warmup_steps=warmup_steps, seed=seed)
        return _unconstrained(found, density), found

    generator = torch.Generator().manual_seed(seed)
    with enough_threads(density):
        result = run_method(method, Problem(density, make_draws, generator, dict(options or {})))
    warnings = [*result.diagnostics.get("warnings", ())]
    if isinstance(draws, Draws) and not draws.adjusted:
        warnings.append(f"draws of {draws.sampler!r} are not Metropolis-adjusted: they are biased")
    if not getattr(density, "proper_prior", True):
        warnings.append(
            "the prior is improper: the evidence is known up to a constant that cannot be compared"
        )
    diagnostics = {
        **result.diagnostics,
        "warnings": warned(f"model_evidence ({method})", warnings),
        "seed": seed,
    }
    if not compiled:
        anywhere = density.unpack(torch.zeros(density.dim, dtype=density.dtype))
        diagnostics["observed"] = observed_sites(model, args, kwargs, given=anywhere)
    return result._replace(diagnostics=diagnostics)


def _chains_of(draws: Draws | Mapping[str, Tensor] | Tensor) -> int:
    if isinstance(draws, Tensor):
        return draws.shape[0] if draws.dim() == 3 else 128
    values = draws.samples if isinstance(draws, Draws) else draws
    return int(next(iter(values.values())).shape[0])


def _unconstrained(draws: Draws | Mapping[str, Tensor] | Tensor, density: Any) -> Tensor:
    """Draws of any form as positions (C, N, D) of the density."""
    if isinstance(draws, Draws):
        position = draws.unconstrained if draws.unconstrained is not None else density.pack(draws.samples)
    else:
        position = draws if isinstance(draws, Tensor) else density.pack(draws)
    if position.shape[-1] != density.dim:
        raise ValueError(
            f"draws: expected (chains, draws, {density.dim}) positions, got {tuple(position.shape)}. "
            "Fix: draws of this very model, e.g. sample(model, ...)"
        )
    found: Tensor = position.to(density.dtype)
    return found
