"""Every adjusted kernel there is, found by its class: started in the exact law, it stays in it."""

import pytest
import torch
from scipy import stats

from evidentia.inference.density.evaluation import Evaluation
from evidentia.inference.mcmc.choose_kernel import kernel_classes

CHAINS = 60_000
# Why a kernel does not take part.
EXCEPTIONS = {"tempering": "its other temperatures start at the chain's own position, not in their laws"}
KERNELS = {name: kernel for name, kernel in kernel_classes().items() if kernel.adjusted}


def skewed(x, beta=1.0):
    """log Gamma(1.5), and a normal around 0.7 of it."""
    first, rest = x[:, 0], x[:, 1] - 0.7 * x[:, 0]
    value = 1.5 * first - first.exp() - rest.square() / 0.72
    slope = -rest / 0.36
    return Evaluation(value, torch.stack([1.5 - first.exp() - 0.7 * slope, slope], -1), value)


def skewed_draws(generator):
    normal = torch.randn(CHAINS, 4, generator=generator, dtype=torch.float64)
    first = (0.5 * normal[:, :3].square().sum(-1)).log()
    return torch.stack([first, 0.7 * first + 0.6 * normal[:, 3]], -1)


@pytest.mark.statistical
@pytest.mark.parametrize("name", sorted(set(KERNELS) - set(EXCEPTIONS)))
def test_a_kernel_leaves_the_exact_law(name):
    generator = torch.Generator().manual_seed(5)
    kernel = KERNELS[name](num_chains=CHAINS)
    state, rates = kernel.start(skewed, skewed_draws(generator), 0, generator), []
    for _ in range(3):
        state, info = kernel.advance(skewed, state, generator)
        rates.append(info.acceptance_rate.mean())
    assert 0.1 < torch.stack(rates).mean() < 0.995, "the accept step must matter"
    fresh = skewed_draws(generator)
    assert not torch.equal(state.position, fresh)
    for what, project in {
        "first": lambda x: x[:, 0],
        "difference": lambda x: x[:, 0] - x[:, 1],
        "log density": lambda x: skewed(x).log_density,
    }.items():
        mine, exact = project(state.position).numpy(), project(fresh).numpy()
        p = stats.ks_2samp(mine, exact, method="asymp").pvalue
        assert p > 1e-4, f"{what}: p = {p:.1e}"


def test_exceptions_are_kernels():
    assert set(EXCEPTIONS) <= set(KERNELS)
