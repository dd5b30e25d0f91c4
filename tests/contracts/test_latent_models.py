"""The contract of the models of a data matrix: every one that the packages define keeps the agreed form."""

import importlib
import inspect
import pkgutil
import re

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.nn import PyroModule

from evidentia.models.latent.discrete_vae import discrete_vae_pair
from evidentia.models.latent.heads import CategoricalHead
from evidentia.models.latent.vae import vae_pair
from evidentia.models.latent.vae_ard import vae_ard_pair
from evidentia.models.tractable.exact_guide import exact_pair
from evidentia.models.tractable.factor_analysis import FactorAnalysis
from evidentia.models.tractable.gaussian_mixture import GaussianMixture
from evidentia.models.tractable.ppca import ProbabilisticPCA

PACKAGES = ("evidentia.models.latent", "evidentia.models.tractable")
WIDTH = 4

# One small pair for each model class, data of four columns. A new model fails until it is here.
SMALL = {
    "VAE": lambda: vae_pair(2, WIDTH, [5], CategoricalHead(3)),
    "VAEARD": lambda: vae_ard_pair(2, WIDTH, [5]),
    "DiscreteVAE": lambda: discrete_vae_pair(2, WIDTH, [5], CategoricalHead(3)),
    "ProbabilisticPCA": lambda: exact_pair(ProbabilisticPCA(torch.randn(4), torch.randn(4, 2), 0.5)),
    "FactorAnalysis": lambda: exact_pair(
        FactorAnalysis(torch.randn(4), torch.randn(4, 2), torch.rand(4) + 0.5)
    ),
    "GaussianMixture": lambda: exact_pair(
        GaussianMixture(torch.tensor([0.3, 0.7]), torch.randn(2, 4), torch.eye(4).expand(2, 4, 4))
    ),
}

# Programs of these packages that are not models of exchangeable rows.
EXEMPT = {"GaussianCopies": "every row has parameters of its own"}


def model_classes():
    """Final modules with an observed site `obs`; a guide has none."""
    found = {}
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        for info in pkgutil.walk_packages(path, package + "."):
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                own = inspect.isclass(value) and value.__module__ == module.__name__
                if own and issubclass(value, PyroModule) and getattr(value, "__final__", False):
                    table = re.search(r"^ *``obs``", inspect.getdoc(value) or "", re.MULTILINE)
                    if name not in EXEMPT and (table or "obs=x" in inspect.getsource(value)):
                        found[name] = value
    return found


CLASSES = model_classes()


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


@pytest.fixture(params=SMALL)
def pair(request):
    return SMALL[request.param]()


def sample_sites(program, *args, **kwargs):
    trace = poutine.trace(program).get_trace(*args, **kwargs)
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["infer"].get("_deterministic") and name != "data"
    }


def latent_sites(program, *args, **kwargs):
    return {n: s for n, s in sample_sites(program, *args, **kwargs).items() if not s["is_observed"]}


def test_every_model_has_a_small_example():
    assert set(CLASSES) == set(SMALL)
    for name, build in SMALL.items():
        assert isinstance(build().model, CLASSES[name])


def test_the_site_table_lists_the_sites(pair):
    documented = set(re.findall(r"^ *``(\w+)`` +", inspect.getdoc(type(pair.model)) or "", re.MULTILINE))
    x = pair.model(size=3).detach()
    trace = poutine.trace(pair.model).get_trace(x)
    run = {n for n, site in trace.nodes.items() if site["type"] == "sample" and n != "data"}
    assert documented == run


def test_the_guide_samples_the_latents_of_the_model(pair):
    x = pair.model(size=3).detach()
    model, guide = latent_sites(pair.model, x), latent_sites(pair.guide, x)
    assert set(model) == set(guide)
    for name, site in model.items():
        assert site["value"].shape == guide[name]["value"].shape
        frames = [[f.name for f in sites[name]["cond_indep_stack"]] for sites in (model, guide)]
        assert frames[0] == frames[1]


def test_the_data_are_one_observed_site_in_the_data_plate(pair):
    x = pair.model(size=3).detach()
    sites = sample_sites(pair.model, x)
    observed = [name for name, site in sites.items() if site["is_observed"]]
    assert observed == ["obs"]
    assert torch.equal(sites["obs"]["value"], x)
    assert [frame.name for frame in sites["obs"]["cond_indep_stack"]] == ["data"]
    assert sites["obs"]["fn"].event_dim == 1


def test_the_prior_predictive_has_the_shape_of_the_data(pair):
    assert pair.model(size=3).shape == (3, WIDTH)
    draws = Predictive(pair.model, num_samples=5, parallel=True)(size=3)
    assert draws["obs"].shape == (5, 3, WIDTH)
    with pytest.raises(ValueError, match="Fix: model"):
        pair.model()
    with pytest.raises(ValueError, match="expected data x, got None"):
        pair.guide()


def test_a_minibatch_scales_what_is_inside_the_plate_only(pair):
    x = pair.model(size=3).detach()
    for program in pair:
        for site in sample_sites(program, x, size=12).values():
            inside = bool(site["cond_indep_stack"])
            assert site["scale"] == (4.0 if inside else 1.0)


def test_particles_lead_and_rows_stay_last(pair):
    x = pair.model(size=3).detach()
    with pyro.plate("particles", 5, dim=-2):
        drawn = poutine.trace(pair.guide).get_trace(x)
        joint = poutine.trace(poutine.replay(pair.model, trace=drawn)).get_trace(x)
    joint.compute_log_prob()
    assert joint.nodes["obs"]["log_prob"].shape == (5, 3)
    objective = Trace_ELBO(5, vectorize_particles=True, max_plate_nesting=1)
    assert torch.isfinite(torch.tensor(objective.loss(*pair, x)))


def test_permuting_the_rows_permutes_the_log_probabilities(pair):
    x = pair.model(size=6).detach()
    drawn = {n: s["value"] for n, s in latent_sites(pair.guide, x).items()}
    order = torch.randperm(6)
    moved = {n: v[order] if v.dim() and len(v) == 6 else v for n, v in drawn.items()}
    rows = []
    for values, data in ((drawn, x), (moved, x[order])):
        trace = poutine.trace(poutine.condition(pair.model, values)).get_trace(data)
        trace.compute_log_prob()
        rows.append(trace.nodes["obs"]["log_prob"])
    torch.testing.assert_close(rows[0][order], rows[1])


def test_data_of_the_wrong_shape_are_refused_by_model_and_guide(pair):
    for program in pair:
        with pytest.raises(ValueError, match=rf"expected x of shape \(n, {WIDTH}\)"):
            program(torch.ones(3, WIDTH + 1))


def test_printing_a_model_shows_its_size(pair):
    assert f"data_width={WIDTH}" in repr(pair.model)


@pytest.mark.parametrize("name", [name for name, cls in CLASSES.items() if hasattr(cls, "log_evidence")])
def test_the_bound_of_a_tractable_pair_is_its_evidence(name):
    pair = SMALL[name]()
    x = pair.model(size=6).detach()
    exact = pair.model.log_evidence(x)
    assert exact.shape == (6,)
    bound = -Trace_ELBO().loss(*pair, x)
    assert bound == pytest.approx(float(exact.detach().sum()), abs=1e-9)
