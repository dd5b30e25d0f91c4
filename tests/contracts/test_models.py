"""The contract of a model: every model that a study builds is a Pyro program of the one agreed form."""

import importlib

import pyro
import pytest
import torch

from evidentia.studies.harness.declare.discovery import discover
from evidentia.studies.harness.engine.problem import build_problem, load_data


def built():
    """One point for each (data, model) that the studies name."""
    found = {}
    for name, source in discover(plugins=False).items():
        module = importlib.import_module(source.module)
        for point in module.study(module.Config()).points():
            if point.model is not None:
                found.setdefault((name, point.data.label, point.model.label), point)
    return [pytest.param(point, id=" ".join(key)) for key, point in found.items()]


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("point", built())
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
