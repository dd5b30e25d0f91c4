"""NumPyro's NUTS on the posteriors of the sampler race, for environments that have NumPyro; an optional peer.

NumPyro is no dependency of this library and does not come with it; `pip install numpyro` adds it.
"""

from __future__ import annotations

from importlib.util import find_spec
from time import process_time
from typing import Any

__all__ = ["run", "why_not"]

CHAINS = 4


def why_not(model: Any) -> str:
    """Why there is no row of NumPyro for this model; empty when there is one."""
    if find_spec("numpyro") is None:
        return "NumPyro is not installed here; pip install numpyro adds its row"
    if type(model).__name__ not in _programs():
        return f"{type(model).__name__} is not written for NumPyro"
    return ""


def run(model: Any, args: tuple[Any, ...], options: Any, seed: int) -> tuple[Any, dict[str, float]]:
    """Four chains of NUTS in double precision, warm-up as long as the draws.

    Returns:
        Draws, and CPU seconds by phase; compilation is part of the warm-up and of the draws.
    """
    import torch

    from evidentia.inference.idata.draws import Draws

    samples, stats, seconds = sampled(
        type(model).__name__, [each.numpy() for each in args], options.num_draws, options.warmup_steps, seed
    )
    found, said = ({k: torch.tensor(v) for k, v in each.items()} for each in (samples, stats))
    return Draws(found, said, {}, "max_steps", "numpyro_nuts"), seconds


def sampled(
    name: str, arrays: list[Any], num_draws: int, warmup_steps: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Samples and statistics as arrays (chain, draw, …), and seconds."""
    import jax
    import numpy
    import numpyro
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()
    data = [jax.numpy.asarray(each) for each in arrays]
    mcmc = MCMC(
        NUTS(_programs()[name]), num_warmup=warmup_steps, num_samples=num_draws, num_chains=CHAINS,
        chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    fields = ("potential_energy", "energy", "diverging", "num_steps", "accept_prob")
    began = process_time()
    mcmc.warmup(jax.random.PRNGKey(seed), *data, extra_fields=fields)
    warmed = process_time()
    mcmc.run(jax.random.PRNGKey(seed + 1), *data, extra_fields=fields)
    samples = {key: numpy.array(value) for key, value in mcmc.get_samples(group_by_chain=True).items()}
    ended = process_time()
    extra = {key: numpy.array(value) for key, value in mcmc.get_extra_fields(group_by_chain=True).items()}
    stats = {"lp": -extra["potential_energy"], "energy": extra["energy"], "diverging": extra["diverging"]}
    stats |= {"n_steps": extra["num_steps"], "acceptance_rate": extra["accept_prob"]}
    return samples, stats, {"compile": 0.0, "start": 0.0, "warmup": warmed - began, "draw": ended - warmed}


def _programs() -> dict[str, Any]:
    """Class of the Pyro model -> the same model for NumPyro."""
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as dist

    site: Any = numpyro.sample

    def eight_schools(x: Any, y: Any) -> None:
        mu, tau = site("mu", dist.Normal(0.0, 5.0)), site("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("data", len(x)):
            site("obs", dist.Normal(mu + tau * site("t", dist.Normal(0.0, 1.0)), x[:, 0]), obs=y)

    def hierarchical_logistic(x: Any, y: Any) -> None:
        tau, alpha = site("tau", dist.HalfCauchy(1.0)), site("alpha", dist.Normal(0.0, 5.0))
        beta = site("beta", dist.Normal(jnp.zeros(x.shape[1]), tau).to_event(1))
        with numpyro.plate("data", len(x)):
            site("obs", dist.Bernoulli(logits=alpha + x @ beta), obs=y)

    def correlated_gaussian(x: Any) -> None:
        site("x", dist.MultivariateNormal(jnp.zeros(len(x)), scale_tril=x))

    def neal_funnel(x: Any) -> None:
        v = site("v", dist.Normal(0.0, 3.0))
        with numpyro.plate("data", len(x)):
            site("z", dist.Normal(0.0, jnp.exp(v / 2)))

    return {
        "EightSchools": eight_schools,
        "HierarchicalLogistic": hierarchical_logistic,
        "CorrelatedGaussian": correlated_gaussian,
        "NealFunnel": neal_funnel,
    }
