"""The contract of every batched kernel: under `pyro.infer.MCMC`, as a flat state, chain by chain."""

import copy
import importlib
import inspect
import math
import pickle
import pkgutil

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC

import evidentia.inference.mcmc as package
from evidentia.inference.density import log_density
from evidentia.inference.density.evaluation import Evaluation
from evidentia.inference.mcmc.batched import BatchedKernel, flatten_state, restore_state
from evidentia.inference.mcmc.hmc_kernel import HMC
from evidentia.inference.mcmc.langevin import MALA
from evidentia.inference.mcmc.random_walk import RandomWalk
from evidentia.inference.mcmc.starts import uniform_start

DATA = torch.tensor([1.2, 0.4, 2.1, 1.6, -0.3, 0.9])


def model(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc[0], scale), obs=y)


def exact_means():
    """Posterior means by quadrature."""
    loc, scale = torch.meshgrid(
        torch.linspace(-2, 4, 401, dtype=torch.float64),
        torch.linspace(0.02, 5, 400, dtype=torch.float64),
        indexing="ij",
    )
    value = dist.Normal(0.0, 1.0).log_prob(loc) + dist.HalfNormal(1.0).log_prob(scale)
    value = value + sum(dist.Normal(loc, scale).log_prob(y) for y in DATA.double())
    weight = torch.softmax(value.flatten(), 0).reshape(value.shape)
    return {"loc": (weight * loc).sum().item(), "scale": (weight * scale).sum().item()}


def found_kernels():
    kernels = {}
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        for value in vars(importlib.import_module(info.name)).values():
            if inspect.isclass(value) and issubclass(value, BatchedKernel) and not inspect.isabstract(value):
                kernels[value.__name__] = value
    return dict(sorted(kernels.items()))


KERNELS = found_kernels()
# Why a kernel does not take part: none so far.
EXCEPTIONS: dict[str, str] = {}
TAKING_PART = sorted(set(KERNELS) - set(EXCEPTIONS))
SETTINGS = {"ULA": {"step_size": 0.5}}
DRAWS = {"ULA": 1500, "RandomWalk": 1500, "HMC": 300}
# A toy for what needs no compiled model.
SPREAD = torch.tensor([1.0, 0.2, 3.0], dtype=torch.float64)


def toy(x, beta=1.0):
    value = -0.5 * (x / SPREAD).square().sum(-1)
    column = beta[:, None] if isinstance(beta, torch.Tensor) and beta.ndim else beta
    return Evaluation(beta * value, -column * x / SPREAD.square(), value)


def build(name, **settings):
    return KERNELS[name](**(SETTINGS.get(name, {}) | settings))


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_is_final_named_and_says_what_it_needs(name):
    kernel = KERNELS[name]
    assert getattr(kernel, "__final__", False)
    assert isinstance(kernel.name, str)
    assert isinstance(kernel.adjusted, bool)
    assert isinstance(kernel.needs_gradient, bool)
    assert sum(other.name == kernel.name for other in KERNELS.values()) == 1


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """The same density for every setup of the file: what is compiled is tested elsewhere."""
    compile_density = log_density.compile_density

    def cached(model, *args, num_chains, **kwargs):
        if num_chains not in COMPILED:
            COMPILED[num_chains] = compile_density(model, *args, num_chains=num_chains, **kwargs)
        return COMPILED[num_chains]

    monkeypatch.setattr(log_density, "compile_density", cached)


COMPILED: dict[int, object] = {}


def run_under_pyro(name, num_chains, draws, warmup_steps):
    kernel = build(name, model=model)
    pickle.dumps(copy.deepcopy(kernel))
    mcmc = MCMC(
        kernel,
        num_samples=draws,
        warmup_steps=warmup_steps,
        num_chains=num_chains,
        disable_progbar=True,
    )
    mcmc.run(DATA)
    samples = mcmc.get_samples(group_by_chain=True)
    assert samples["loc"].shape == (num_chains, draws, 1)
    assert samples["scale"].shape == (num_chains, draws)
    assert (samples["scale"] > 0).all(), "samples come back in the constrained space"
    data = az.from_pyro(mcmc)
    assert data.log_likelihood["y"].shape == (num_chains, draws, len(DATA))
    diagnostics = mcmc.diagnostics()
    for chain in range(num_chains):
        divergences = diagnostics["divergences"][f"chain {chain}"]
        assert isinstance(divergences, list)
        assert all(isinstance(each, int) and 0 <= each < draws for each in divergences)
        assert 0 < diagnostics["acceptance rate"][f"chain {chain}"] <= 1
        assert diagnostics["lp"][f"chain {chain}"].shape == (draws, 1)
    if num_chains > 1:
        assert not torch.equal(samples["scale"][0], samples["scale"][1])
        one, two = (diagnostics["lp"][f"chain {chain}"] for chain in range(2))
        assert not torch.equal(one, two), "diagnostics are those of the chain"
    assert kernel.adaptation_record
    return data, samples


@pytest.mark.parametrize("name", TAKING_PART)
def test_a_kernel_runs_under_pyro(name):
    run_under_pyro(name, 2, 30, 20)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("num_chains", [1, 2])
@pytest.mark.parametrize("name", TAKING_PART)
def test_a_kernel_is_right_under_pyro(name, num_chains):
    data, samples = run_under_pyro(name, num_chains, DRAWS.get(name, 500), 200)
    exact = exact_means()
    for site in ("loc", "scale"):
        error = samples[site].double().mean().item() - exact[site]
        assert abs(error) < 4 * az.mcse(data, var_names=[site])[site].values.item(), (site, error)
        if num_chains > 1:
            assert az.rhat(data, var_names=[site])[site].values.item() < 1.05


@pytest.mark.parametrize("name", TAKING_PART)
def test_each_setup_begins_anew(name):
    kernel = build(name, model=model, seed=3)
    records = []
    for _ in range(2):
        kernel.setup(30, DATA)
        params = kernel.initial_params
        first = kernel.adaptation(kernel.state)
        for _ in range(40):
            params = kernel.sample(params)
        assert kernel.state.step == 40
        assert kernel.diagnostics()["lp"].shape == (10, 1)
        kernel.cleanup()
        kernel.cleanup()
        records.append((kernel.adaptation_record, params))
        assert any(not torch.equal(first[k], kernel.adaptation_record[k]) for k in first)
    # The second chain of one object has another random stream, and adapted by itself.
    assert not torch.equal(records[0][1]["loc"], records[1][1]["loc"])
    again = build(name, model=model, seed=3)
    again.setup(30, DATA)
    params = again.initial_params
    for _ in range(40):
        params = again.sample(params)
    assert torch.equal(params["loc"], records[0][1]["loc"]), "a seed is a result"


def test_one_chain_is_unbatched_and_many_lead():
    for num_chains, lead in ((1, ()), (5, (5,))):
        kernel = MALA(model, num_chains=num_chains)
        kernel.setup(5, DATA)
        params = kernel.sample(kernel.initial_params)
        assert {name: tuple(value.shape) for name, value in params.items()} == {
            "loc": (*lead, 1),
            "scale": lead,
        }
        assert not any(value.requires_grad for value in params.values())


def test_a_preset_start_is_honoured():
    kernel = MALA(model)
    kernel.initial_params = {"loc": torch.tensor([0.3]), "scale": torch.tensor(-0.7)}
    kernel.setup(0, DATA)
    assert kernel.initial_params["loc"].item() == pytest.approx(0.3)
    # In unconstrained space: the scale is exp(-0.7).
    assert kernel.transforms["scale"].inv(kernel.initial_params["scale"]).item() == pytest.approx(
        math.exp(-0.7)
    )
    moved = kernel.sample({"loc": torch.tensor([25.0]), "scale": torch.tensor(0.0)})
    assert moved["loc"].item() > 5, "a caller's own position is taken"
    kernel.initial_params = {"loc": torch.tensor([0.3])}
    with pytest.raises(ValueError, match=r"no entry for site 'scale'"):
        kernel.setup(0, DATA)


def test_transforms_are_unknown_before_setup():
    # Pyro's parallel mode samples in other processes and then asks the parent for them.
    assert MALA(model).transforms is None
    with pytest.raises(ValueError, match="no model"):
        MALA().setup(0, DATA)


def advance(kernel, state, generator, steps):
    for _ in range(steps):
        state, info = kernel.advance(toy, state, generator)
    return state, info


@pytest.mark.parametrize("name", TAKING_PART)
@pytest.mark.parametrize("stop", [7, 25])
def test_a_flat_state_continues_bitwise(name, stop):
    kernel = build(name, num_chains=8)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    state, _ = advance(kernel, kernel.start(toy, start, 20, generator), generator, stop)
    flat = {key: value.clone() for key, value in flatten_state(state).items()}
    stream = generator.get_state()
    straight, _ = advance(kernel, state, generator, 10)
    other = build(name, num_chains=8)
    template = other.start(toy, torch.zeros(8, 3, dtype=torch.float64), 20, torch.Generator())
    resumed = restore_state(template, flat)
    assert type(resumed) is type(state)
    generator.set_state(stream)
    resumed, _ = advance(other, resumed, generator, 10)
    for key, value in flatten_state(straight).items():
        assert torch.equal(value, flatten_state(resumed)[key]), key


def test_a_state_of_another_kernel_is_refused():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 3, dtype=torch.float64)
    mine = MALA(num_chains=8).start(toy, start, 5, generator)
    template = HMC(num_chains=8).start(toy, start, 5, generator)
    with pytest.raises(ValueError, match="no entry 'trajectory"):
        restore_state(template, flatten_state(mine))
    with pytest.raises(ValueError, match="str at 'position'"):
        flatten_state(mine.point._replace(position="here"))


@pytest.mark.parametrize("name", TAKING_PART)
def test_chains_are_independent_after_the_warmup(name):
    kernel = build(name, num_chains=6)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    state, _ = advance(kernel, kernel.start(toy, start, 20, generator), generator, 20)
    shifted = state.position.clone()
    shifted[0] += 2.0
    ends = []
    for position in (state.position, shifted):
        same = torch.Generator().manual_seed(1)
        ends.append(advance(kernel, kernel.relocate(toy, state, position), same, 5)[0].position)
    assert not torch.equal(ends[0][0], ends[1][0])
    # Matrix products over the batch may differ in the last bit.
    torch.testing.assert_close(ends[0][1:], ends[1][1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TAKING_PART)
def test_the_dtype_of_the_positions_is_kept(name, dtype):
    def density(x, beta=1.0):
        value = -0.5 * x.square().sum(-1)
        return Evaluation(value, -x, value)

    kernel = build(name, num_chains=16)
    generator = torch.Generator().manual_seed(0)
    state = kernel.start(density, torch.randn(16, 2, generator=generator).to(dtype), 12, generator)
    for _ in range(15):
        state, info = kernel.advance(density, state, generator)
    assert state.position.dtype == state.log_density.dtype == dtype
    assert info.energy_error.dtype == info.energy.dtype == torch.float64
    assert info.acceptance_rate.shape == info.diverging.shape == (16,)


def test_a_hole_in_the_support_is_never_entered():
    def density(x, beta=1.0):
        value = torch.where(x[:, 0] > 0, -0.5 * x.square().sum(-1), torch.nan)
        return Evaluation(value, torch.where(x[:, :1] > 0, -x, torch.nan), value)

    for name in TAKING_PART:
        kernel = build(name, num_chains=16)
        generator = torch.Generator().manual_seed(0)
        start = torch.rand(16, 2, generator=generator, dtype=torch.float64) + 0.1
        state, counted = kernel.start(density, start, 10, generator), 0
        for _ in range(30):
            state, info = kernel.advance(density, state, generator)
            counted += int(info.diverging.sum())
            assert (info.acceptance_rate[info.diverging] == 0).all()
        assert (state.position[:, 0] > 0).all(), name
        assert counted > 0, name


def test_uniform_starts_avoid_what_is_not_finite():
    def half(x, beta=1.0):
        value = torch.where(x[:, 0] > 1.0, 0.0, -torch.inf)
        return Evaluation(value, torch.zeros_like(x), value)

    generator = torch.Generator().manual_seed(0)
    start = uniform_start(half, 50, 2, torch.float64, generator)
    assert (start[:, 0] > 1).all()
    assert start.abs().max() < 2
    with pytest.raises(ValueError, match="chains found no position"):
        uniform_start(lambda x, beta: half(x - 9.0), 3, 2, torch.float64, generator, tries=5)


def test_random_walk_needs_no_gradient():
    def ramp(x):
        return torch.where((x.abs() < 1).all(-1), x.sum(-1), -torch.inf), torch.zeros_like(x)

    kernel = RandomWalk(num_chains=64)
    generator = torch.Generator().manual_seed(0)
    state = kernel.start(ramp, torch.zeros(64, 2, dtype=torch.float64), 60, generator)
    total = torch.zeros(2, dtype=torch.float64)
    for step in range(260):
        state, info = kernel.advance(ramp, state, generator)
        assert not info.diverging.any()
        if step >= 60:
            total += state.position.mean(0) / 200
    # Mean of a density e^x on (-1, 1): 1/tanh(1) - 1.
    assert (total - (1 / math.tanh(1) - 1)).abs().max() < 0.05
