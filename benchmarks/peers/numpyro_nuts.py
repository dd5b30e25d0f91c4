"""NumPyro's NUTS on the eight posteriors: minimum bulk ESS, R-hat, seconds. A script for its own environment.

Usage: PYTHON numpyro_nuts.py NAME [--chains 4] [--method sequential] [--warmup 1000] [--draws 1000]
[--seed 0] [--reference FILE]. PYTHON has numpyro, arviz and scikit-learn. One JSON line is printed.

`cold` is the first run of the process after the imports: tracing, compilation, warm-up and sampling. `warm`
is the second run of the same object, the best its interface offers for code that is compiled.
`--reference` writes means, standard deviations and their Monte-Carlo errors instead.
"""

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro import sample
from numpyro.infer import MCMC, NUTS
from posteriors import DATA


def gp(x, y):
    """As in `posteriors.pyro_models`, like all below."""
    amplitude = sample("amplitude", dist.LogNormal(0.0, 1.0))
    length = sample("length", dist.LogNormal(0.0, 1.0))
    noise = sample("noise", dist.LogNormal(-1.0, 1.0))
    distance = (x[:, None] - x) / length
    kernel = amplitude**2 * jnp.exp(-0.5 * distance**2) + (noise**2 + 1e-5) * jnp.eye(len(x))
    sample("obs", dist.MultivariateNormal(jnp.zeros(len(x)), kernel), obs=y)


def eight_schools(y, scale):
    """Hierarchical means."""
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        t = sample("t", dist.Normal(0.0, 1.0))
        sample("obs", dist.Normal(mu + tau * t, scale), obs=y)


def diabetes(x, y):
    """Linear regression."""
    intercept = sample("intercept", dist.Normal(0.0, 1.0))
    beta = sample("beta", dist.Normal(jnp.zeros(10), 1.0).to_event(1))
    noise = sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("data", len(y)):
        sample("obs", dist.Normal(intercept + x @ beta, noise), obs=y)


def counts(x, group, y):
    """Poisson regression."""
    intercept = sample("intercept", dist.Normal(0.0, 2.0))
    beta = sample("beta", dist.Normal(0.0, 1.0))
    tau = sample("tau", dist.HalfNormal(1.0))
    effect = sample("effect", dist.Normal(jnp.zeros(16), 1.0).to_event(1))
    with numpyro.plate("data", len(y)):
        rate = jnp.exp(intercept + tau * effect[group] + beta * x[:, 0])
        sample("obs", dist.Poisson(rate), obs=y)


def breast_cancer(x, y):
    """Hierarchical logistic regression."""
    tau = sample("tau", dist.HalfCauchy(1.0))
    alpha = sample("alpha", dist.Normal(0.0, 5.0))
    beta = sample("beta", dist.Normal(jnp.zeros(23), tau).to_event(1))
    with numpyro.plate("data", len(y)):
        sample("obs", dist.Bernoulli(logits=alpha + x @ beta), obs=y)


def tests(y):
    """Item response."""
    mean = sample("mean", dist.Normal(0.0, 1.0))
    spread = sample("spread", dist.HalfNormal(1.0))
    ability = sample("ability", dist.Normal(jnp.zeros(30), 1.0).to_event(1))
    item = sample("item", dist.Normal(jnp.zeros(12), 1.0).to_event(1))
    sample("obs", dist.Bernoulli(logits=ability[:, None] - (mean + spread * item)).to_event(2), obs=y)


def volatility(y):
    """Stochastic volatility."""
    mean = sample("mean", dist.Normal(0.0, 2.0))
    phi = sample("phi", dist.Beta(20.0, 1.5))
    sigma = sample("sigma", dist.HalfNormal(0.5))
    noise = sample("noise", dist.Normal(jnp.zeros(60), 1.0).to_event(1))

    def move(state, innovation):
        state = phi * state + sigma * innovation
        return state, state

    h = mean + jax.lax.scan(move, jnp.zeros_like(mean), noise)[1]
    sample("obs", dist.Normal(jnp.zeros(60), jnp.exp(h / 2)).to_event(1), obs=y)


def gaussian(factor):
    """A normal law."""
    sample("x", dist.MultivariateNormal(jnp.zeros(100), scale_tril=factor))


MODELS = {
    each.__name__: each
    for each in (gp, eight_schools, diabetes, counts, breast_cancer, tests, volatility, gaussian)
}


def errors(value, method):
    """Monte-Carlo errors of the scalars of a site."""
    return [float(az.mcse(value[(..., *i)], method=method)) for i in np.ndindex(value.shape[2:])]


def main() -> None:
    """Run one posterior."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=list(MODELS))
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--method", default="sequential")
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--reference", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.reference:
        numpyro.enable_x64()
    real = jnp.float64 if options.reference else jnp.float32
    data = {
        key: jnp.asarray(value, jnp.int32 if value.dtype.kind == "i" else real)
        for key, value in DATA[options.name]().items()
    }
    kernel = NUTS(MODELS[options.name], dense_mass=options.dense)
    mcmc = MCMC(
        kernel,
        num_warmup=options.warmup,
        num_samples=options.draws,
        num_chains=options.chains,
        chain_method=options.method,
        progress_bar=False,
    )
    seconds = []
    for run in range(1 if options.reference else 2):
        start = time.perf_counter()
        mcmc.run(jax.random.PRNGKey(options.seed + run), **data)
        draws = {k: np.asarray(v, float) for k, v in mcmc.get_samples(group_by_chain=True).items()}
        seconds.append(time.perf_counter() - start)
    scalars = [value[(..., *index)] for value in draws.values() for index in np.ndindex(value.shape[2:])]
    result = {
        "name": options.name,
        "what": f"numpyro {numpyro.__version__}, jax {jax.__version__}",
        "ess": min(float(az.ess(each, method="bulk")) for each in scalars),
        "r_hat": max(float(az.rhat(each)) for each in scalars),
        "cold": seconds[0],
        "warm": seconds[-1],
    }
    if options.reference:
        found = {
            name: {
                "mean": value.mean((0, 1)).tolist(),
                "sd": value.std((0, 1)).tolist(),
                "mean_mcse": errors(value, "mean"),
                "sd_mcse": errors(value, "sd"),
            }
            for name, value in draws.items()
        }
        table = json.loads(options.reference.read_text()) if options.reference.exists() else {}
        table[options.name] = {"sampler": result, "sites": found}
        options.reference.write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
