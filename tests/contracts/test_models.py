"""The contract of a model: every model that a study builds is a Pyro program of the one agreed form."""

import importlib

import pyro
import pytest
import torch

from evidentia.inference.density.log_density import compile_density
from evidentia.studies.harness.declare.discovery import discover
from evidentia.studies.harness.engine.problem import build_problem, load_data
from evidentia.studies.harness.handlers.arguments import arguments

# Inferences on a posterior as such; their models need not be programs of rows with a guide.
ON_TARGETS = {"evidence", "sampler_race", "sample", "sbc"}


def built(response=None):
    """One point for each (data, model) that the studies name, with or without a response to explain.

    None: those whose posterior is the subject.
    """
    found = {}
    for name, source in discover(plugins=False).items():
        module = importlib.import_module(source.module)
        for point in module.study(module.Config()).points():
            if point.model is None or (point.inference.key in ON_TARGETS) != (response is None):
                continue
            if response is None or (load_data(point.data).y is not None) == response:
                found.setdefault((name, point.data.label, point.model.label), point)
    return [pytest.param(point, id=" ".join(key)) for key, point in found.items()]


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("point", built(response=True))
def test_the_response_is_one_observed_site_in_the_data_plate(point):
    data = load_data(point.data)
    problem = build_problem(point, data)
    draws = {}
    prior = getattr(problem.model, "prior", None)
    if prior is not None and (prior.intercept or not prior.noise.proper):
        with pytest.raises(ValueError, match="flat prior"):
            problem.model(data.x)
        draws = {"intercept": torch.tensor(0.1), "log_variance": torch.tensor(-0.5)}
    else:
        assert problem.model(data.x).shape == data.y.shape
    model = pyro.poutine.condition(problem.model, draws)
    trace = pyro.poutine.trace(model).get_trace(data.x, data.y)
    assert trace.observation_nodes[-1] == "obs"
    observed = trace.nodes["obs"]
    assert torch.equal(observed["value"], data.y)
    assert [frame.name for frame in observed["cond_indep_stack"]] == ["data"]
    assert torch.isfinite(trace.log_prob_sum())


@pytest.mark.parametrize("point", built(response=False))
def test_rows_without_a_response_are_one_observed_site_and_the_guide_has_every_latent(point):
    data = load_data(point.data)
    problem = build_problem(point, data)
    assert problem.model(size=len(data.x)).shape == data.x.shape
    guide = pyro.poutine.trace(problem.guide).get_trace(data.x)
    trace = pyro.poutine.trace(pyro.poutine.replay(problem.model, trace=guide)).get_trace(data.x)
    latent = [name for name in trace.stochastic_nodes if trace.nodes[name]["type"] == "sample"]
    assert set(latent) == set(guide.stochastic_nodes)
    assert trace.observation_nodes[-1] == "obs"
    assert torch.equal(trace.nodes["obs"]["value"], data.x)
    assert [frame.name for frame in trace.nodes["obs"]["cond_indep_stack"]] == ["data"]
    assert torch.isfinite(trace.log_prob_sum())


@pytest.mark.parametrize("point", built())
def test_a_target_is_recorded_and_its_density_is_that_of_the_program(point):
    data = load_data(point.data)
    problem = build_problem(point, data)
    model, args = problem.model, arguments(data)
    if point.inference.key == "sbc":  # it draws its data itself
        model, args = model.model, (*model.args, model.simulator(*model.args))
    density = compile_density(model, *args, num_chains=3, dtype=torch.float64)
    assert density.level == "fx-vmap"
    position = torch.tensor([[0.1], [-0.2], [0.3]], dtype=torch.float64).expand(3, density.dim).contiguous()
    values = density.unpack(position[:1])
    program = pyro.poutine.condition(model, {name: value[0] for name, value in values.items()})
    with pyro.validation_enabled(False):
        trace = pyro.poutine.trace(program).get_trace(*args)
    jacobian = sum(
        site.transform.log_abs_det_jacobian(part, value[0]).sum()
        for site, part, value in zip(
            density.sites,
            position[0].split([site.size for site in density.sites]),
            values.values(),
            strict=True,
        )
    )
    found = density.evaluate(position)
    assert torch.isfinite(found.log_density).all()
    assert torch.isfinite(found.gradient).all()
    torch.testing.assert_close(found.log_density[0], trace.log_prob_sum() + jacobian)
