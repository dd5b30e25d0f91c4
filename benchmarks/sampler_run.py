"""One sampler on one posterior in a process of its own; prints one line of JSON. Used by `samplers.py`.

Usage: python -m benchmarks.sampler_run {sample,nuts} NAME [SEED]. `sample` is evidentia with its defaults;
`nuts` is Pyro's NUTS, one chain, its density compiled by TorchScript.

`cold` is the first run after the imports: tracing, warm start, warm-up and sampling. `warm` is the second
run in the same process; for `sample` the density is kept and the warm start is part of both.
"""

import json
import sys
import time
import warnings
from typing import Any

import arviz as az
import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS

from benchmarks.posteriors import DATA, pyro_models
from evidentia.inference.density.log_density import compile_density
from evidentia.inference.diagnostics import mcmc_checks
from evidentia.inference.mcmc.sample import sample

NUTS_WARMUP, NUTS_DRAWS = 300, 300


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Data in single precision, as in the peers."""
    return {
        key: torch.tensor(value, dtype=torch.float32 if value.dtype.kind == "f" else torch.int64)
        for key, value in DATA[name]().items()
    }


def ours(name: str, seed: int) -> dict[str, Any]:
    """`sample` with its defaults."""
    model, data = pyro_models()[name], tensors(name)
    start = time.perf_counter()
    draws = sample(model, **data, seed=seed, check=False)
    cold = time.perf_counter() - start
    density = compile_density(model, **data, num_chains=draws.num_chains)
    start = time.perf_counter()
    draws = sample(density, seed=seed, check=False)
    warm = time.perf_counter() - start
    checks = {check.name: check.value for check in mcmc_checks(draws)}
    found = {
        "what": f"{draws.num_chains} chains x {draws.num_draws} draws, torch {torch.__version__}",
        "cold": cold,
        "warm": warm,
        "ess": checks["ess_bulk"],
        "r_hat": checks.get("r_hat", checks.get("nested_r_hat")),
        "divergences": int(checks["divergences"]),
    }
    return found | {"moments": moments({k: v.double().numpy() for k, v in draws.samples.items()})}


def pyro_nuts(name: str, seed: int) -> dict[str, Any]:
    """Pyro's NUTS."""
    model, data = pyro_models()[name], tensors(name)
    pyro.set_rng_seed(seed)
    start = time.perf_counter()
    kernel = NUTS(model, jit_compile=True, ignore_jit_warnings=True)
    mcmc = MCMC(kernel, NUTS_DRAWS, warmup_steps=NUTS_WARMUP, disable_progbar=True)
    mcmc.run(**data)
    cold = time.perf_counter() - start
    draws = {k: v.double().numpy() for k, v in mcmc.get_samples(group_by_chain=True).items()}
    ess = min(float(az.ess(each, method="bulk")) for each in scalars(draws))
    what = f"1 chain x {NUTS_DRAWS} draws, pyro {pyro.__version__}"
    return {"what": what, "cold": cold, "warm": cold, "ess": ess}


def scalars(draws: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Every scalar, (chain, draw)."""
    return [value[(..., *index)] for value in draws.values() for index in np.ndindex(value.shape[2:])]


def moments(draws: dict[str, np.ndarray]) -> dict[str, Any]:
    """site -> mean and standard deviation of each scalar, with their Monte-Carlo errors."""
    found = {}
    for name, value in draws.items():
        rows = [value[(..., *index)] for index in np.ndindex(value.shape[2:])]
        found[name] = {
            "mean": [float(row.mean()) for row in rows],
            "mean_mcse": [float(az.mcse(row)) for row in rows],
            "sd": [float(row.std()) for row in rows],
            "sd_mcse": [float(az.mcse(row, method="sd")) for row in rows],
        }
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    print(json.dumps((ours if sys.argv[1] == "sample" else pyro_nuts)(sys.argv[2], seed)))
