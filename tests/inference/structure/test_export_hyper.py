"""Exports with a hyperprior on the variances, in the dtype of the data, and with data that do not fit."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from evidentia.inference.structure.enumerate import enumerate_structures
from evidentia.inference.structure.export import export
from evidentia.inference.structure.networks import network_evidence
from evidentia.models.likelihood import Gaussian
from evidentia.models.regression import NormalPrior, SubsetRegression
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant, Dense
from evidentia.models.structure.weights import ARD


def family() -> Family:
    hidden = {"tanh": Dense(3, "tanh"), "narrow": Dense(3, "relu", active=2)}
    return Family(2).edge("x", "h", ops=hidden).edge("h", "f", ops={"dense": Dense(1), "flat": Constant()})


def data(dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(12, 2, dtype=dtype)
    return x, torch.tanh(x[:, 0]) + 0.1 * torch.randn(12, dtype=dtype)


def log_joint(program, values, x, y) -> torch.Tensor:
    with pyro.get_param_store().scope():
        for name, value in values.items():
            if name.startswith("variance/"):
                pyro.param(name, value.clone(), constraint=dist.constraints.positive)
        trace = poutine.trace(poutine.condition(program, values)).get_trace(x, y)
    trace.compute_log_prob()
    return sum(
        node["log_prob_sum"]
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not name.startswith("arch/")
    )


@pytest.mark.parametrize("hyper", ["param", "sample"])
@pytest.mark.parametrize("label", ["x->h: tanh; h->f: dense", "x->h: narrow; h->f: dense"])
def test_the_log_joint_is_that_of_the_family_hyperprior_included(hyper: str, label: str) -> None:
    x, y = data()
    prior, like = ARD(1.3, shape=2.0, rate=1.5, hyper=hyper), Gaussian(0.4)
    vertex = family().model(likelihood=like, weight_prior=prior, structure=label)
    exported = export(family().model(likelihood=like, weight_prior=prior), label)
    values = {}
    for name, shape in vertex.weight_shapes.items():
        values[f"w/{name}"] = torch.randn(shape, dtype=x.dtype)
        values[f"variance/{name}"] = torch.rand(shape, dtype=x.dtype) + 0.2
    got, expected = (log_joint(model, values, x, y) for model in (exported.pair.model, vertex))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    without = export(family().model(likelihood=like, weight_prior=ARD(1.3)), label).pair.model
    assert abs(log_joint(without, values, x, y) - expected) > 1  # the hyperprior is no small thing


@pytest.mark.slow
@pytest.mark.parametrize("hyper", ["param", "sample"])
def test_variances_are_learned_again_in_retraining(hyper: str) -> None:
    x, y = data()
    model = family().model(likelihood=Gaussian(0.4), weight_prior=ARD(shape=2.0, rate=1.5, hyper=hyper))
    exported = export(model, "x->h: tanh; h->f: dense")
    fitted = exported.retrain(x, y, num_steps=300, learning_rate=0.02, seed=0)
    assert fitted.losses[-50:].mean() < fitted.losses[:50].mean()
    latent = {
        name
        for name, node in poutine.trace(exported.pair.model).get_trace(x, y).nodes.items()
        if node["type"] == "sample" and not node["is_observed"] and name.startswith(("w/", "variance/"))
    }
    assert latent == set(exported.pair.guide(x, y))
    with fitted.scope():
        if hyper == "param":
            learned = pyro.param("variance/x->h/tanh/weight")
            assert learned.shape == (2, 3)
            assert (learned - 1).abs().min() > 1e-3


def test_a_sampled_variance_starts_at_its_hyperprior() -> None:
    prior = ARD(shape=3.0, rate=2.0, hyper="sample")
    logs = dist.InverseGamma(3.0, 2.0).sample((200_000,)).log()
    mean, spread = prior.log_variance_moments()
    assert abs(logs.mean() - mean) < 4.5 * spread / 200_000**0.5
    assert logs.std().item() == pytest.approx(spread, rel=0.02)
    guide = export(
        family().model(likelihood=Gaussian(0.4), weight_prior=prior), "x->h: tanh; h->f: flat"
    ).pair[1]
    assert guide.variance_loc.tolist() == pytest.approx([mean] * len(guide.loc), rel=1e-6)
    with pytest.raises(FamilyError, match="log_variance_moments needs a proper hyperprior"):
        ARD(shape=0, rate=0).log_variance_moments()


def test_learned_variances_and_their_hyperprior_survive_export_with_pruning() -> None:
    x, y = data()
    model = family().model(likelihood=Gaussian(0.4), weight_prior=ARD(shape=1.0, rate=0.1))
    evidence = network_evidence(model, x, y, family().vertices(), num_steps=100)
    exported = export(model, 0, guide=evidence, prune=0.9)
    trace = poutine.trace(exported.pair.model).get_trace(x, y)
    assert "log_hyperprior" in trace.nodes
    for name in exported.pair.model.kept.names:
        expected = exported.pair.model.variances[name].to(x)
        torch.testing.assert_close(trace.nodes[f"variance/{name}"]["value"].detach(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("evidence", ["exact", "elbo", None])
def test_an_export_computes_in_the_dtype_of_the_data(dtype: torch.dtype, evidence) -> None:
    x, y = data(dtype)
    ops = {"flat": Constant(), "line": GLM(bias=True)}
    model = Family(2).edge("x", "f", ops=ops, domain="simplex_vertex").model(likelihood=Gaussian(0.5))
    exported = export(model, "line")
    if evidence is not None:
        options = {"num_steps": 3} if evidence == "elbo" else {}
        exported = enumerate_structures(model, x, y, evidence=evidence, **options).export("line")
    assert exported.to_module()(x).dtype == dtype
    assert {p.dtype for p in exported.to_module(dtype=dtype).parameters()} == {dtype}
    assert (
        poutine.replay(exported.pair.model, poutine.trace(exported.pair.guide).get_trace(x))(x).dtype == dtype
    )
    fitted = exported.retrain(x, y, num_steps=2)
    assert {p.dtype for p in fitted.pair[1].parameters()} == {dtype}
    assert {p.dtype for p in exported.to_module(fitted).parameters()} == {dtype}


def test_an_exported_subset_takes_the_dtype_of_the_data() -> None:
    x, y = data(torch.float32)
    exported = enumerate_structures(SubsetRegression("ab", NormalPrior()), x, y).export("{a}")
    assert exported.to_module(torch.float32)(x).dtype == torch.float32
    trace = poutine.trace(exported.pair.guide).get_trace(x)
    assert poutine.replay(exported.pair.model, trace)(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y[:, None]), r"'y' has shape \(12, 1\), expected \(12,\) .* Fix: flatten a column"),
        (lambda x, y: (x, y[:5]), r"'y' has shape \(5,\), expected \(12,\)"),
        (
            lambda x, y: (x[:, :1], y),
            r"'x' has shape \(12, 1\), expected \(n, 2\)|x \(n, 2\) with all columns",
        ),
        (
            lambda x, y: (x.numpy(), y),
            r"argument 'x' must be a tensor, got ndarray. Fix: torch.as_tensor\(x\)",
        ),
    ],
    ids=["column", "short", "narrow", "array"],
)
@pytest.mark.parametrize("kind", ["network", "regression"])
def test_retraining_says_what_does_not_fit(change, message: str, kind: str) -> None:
    x, y = data()
    exported = export(family().model(likelihood=Gaussian(0.4)), 0)
    if kind == "regression":
        exported = enumerate_structures(SubsetRegression("ab", NormalPrior()), x, y).export("{a}")
    with pytest.raises(ValueError, match=message):
        exported.retrain(*change(x, y))


def test_a_module_says_what_does_not_fit() -> None:
    module = export(family().model(likelihood=Gaussian(0.4)), 0).to_module()
    with pytest.raises(
        FamilyError, match=r"exported module: argument 'x' has shape \(3, 5\), expected \(n, 2\)"
    ):
        module(torch.ones(3, 5))
