"""Export: the same log-joint as the family, less code, pruning, retraining, modules, errors."""

import json
import math

import oracles
import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import LogNormal
from pyro.infer import Predictive, Trace_ELBO
from torch.distributions import Normal

from evidentia.inference.structure.export import export
from evidentia.inference.structure.networks import network_evidence
from evidentia.inference.structure.program import compile_structure
from evidentia.inference.structure.prune import kept, relative_density
from evidentia.models.likelihood import Bernoulli, Gaussian, Hyper
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.evaluate import live_ops
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant, Dense, Identity, Zero
from evidentia.models.structure.structure import Structure
from evidentia.models.structure.weights import ARD


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def one_edge(domain):
    ops = {"constant": Constant(), "one": GLM([0, 2], "tanh"), "all": GLM(bias=True)}
    return Family(3).edge("x", "f", ops=ops, domain=domain)


def two_edges(domain):
    hidden = {
        "tanh": Dense(3, "tanh"),
        "narrow": Dense(3, "relu", active=2),
        "skip": Identity(),
        "zero": Zero(),
    }
    return (
        Family(3)
        .edge("x", "h", ops=hidden, domain=domain)
        .edge("h", "f", ops={"dense": Dense(1), "constant": Constant()}, domain=domain)
    )


def diamond(aggregate, domain="simplex_vertex"):
    layer = {"tanh": Dense(2, "tanh"), "zero": Zero(units=2)}
    return (
        Family(3)
        .edge("x", "a", ops=layer, domain=domain)
        .edge("x", "b", ops={"sin": Dense(2, "sin"), "constant": Constant(units=2)}, domain=domain)
        .edge("a", "c", ops={"id": Identity(), "dense": Dense(2)}, domain=domain)
        .edge("b", "c", ops={"id": Identity(), "dense": Dense(2, bias=False)}, domain=domain)
        .edge("c", "f", ops={"out": Dense(1), "constant": Constant()}, domain=domain)
        .node("c", aggregate=aggregate)
    )


FAMILIES = {
    **{
        f"one edge, {domain}": (one_edge, domain)
        for domain in ("simplex", "simplex_vertex", "cube", "cube_vertex")
    },
    **{f"two edges, {domain}": (two_edges, domain) for domain in ("simplex", "cube_vertex")},
    **{f"diamond, {how}": (diamond, how) for how in ("sum", "concat", "mean", "product")},
}


def some_vertices(family, most=12):
    generator = torch.Generator().manual_seed(2)
    order = torch.randperm(family.num_structures, generator=generator)[:most]
    return family.vertices()[order]


@pytest.mark.parametrize("name", FAMILIES)
def test_log_joint_is_that_of_the_family(name):
    make, argument = FAMILIES[name]
    family = make(argument)
    likelihood, prior = Gaussian(0.6), ARD(1.3)
    whole = family.model(likelihood=likelihood, weight_prior=prior)
    x, y = torch.randn(7, 3), torch.randn(7)
    for gates in some_vertices(family):
        structure = family.structure(gates)
        weights = {key: torch.randn(shape) for key, shape in family.weight_shapes.items()}
        sites = {f"w/{key}": value for key, value in weights.items()}
        exported = export(whole, structure)

        def log_joint(program, values=sites):
            return poutine.trace(poutine.condition(program, data=values)).get_trace(x, y).log_prob_sum()

        found = log_joint(exported.pair.model)
        fixed = family.model(likelihood=likelihood, weight_prior=prior, structure=structure)
        torch.testing.assert_close(found, log_joint(fixed), atol=1e-10, rtol=0)
        live = dict(zip(family.gate_names, live_ops(family.check(), gates).tolist(), strict=True))
        pure = whole.log_likelihood(x, y, gates, weights).sum()
        for key, value in weights.items():
            if live[key.rpartition("/")[0]]:
                pure = pure + Normal(0.0, 1.3).log_prob(value).sum()
        torch.testing.assert_close(found, pure, atol=1e-10, rtol=0)
        assert exported.num_parameters == family.num_parameters(gates)


def test_dead_operations_are_gone():
    family = diamond("sum")
    chosen = family.structure("x->a: zero; x->b: sin; a->c: id; b->c: dense; c->f: out")
    assert repr(compile_structure(family, chosen)) == "b = sin(x)\nc = sum(0, dense(b))\nf = out(c)"
    cut = family.structure("x->a: tanh; x->b: sin; a->c: dense; b->c: dense; c->f: constant")
    program = compile_structure(family, cut)
    assert repr(program) == "f = constant()"
    assert list(program.weight_shapes) == ["c->f/constant/weight"]
    assert program(torch.ones(4, 3), {"c->f/constant/weight": torch.tensor([2.0])}).tolist() == [[2.0]] * 4


def test_sites_of_model_and_guide_agree_and_draws_are_vectorised():
    family = two_edges("simplex")
    exported = export(family.model(likelihood=Gaussian(LogNormal(0.0, 1.0))), "x->h: tanh; h->f: dense")
    x, y = torch.randn(9, 3), torch.randn(9)
    model = poutine.trace(exported.pair.model).get_trace(x, y)
    guide = poutine.trace(exported.pair.guide).get_trace(x, y)
    assert set(guide.stochastic_nodes) == {n for n in model.stochastic_nodes if n != "data"}
    with pyro.poutine.block():
        draws = Predictive(exported.pair.model, guide=exported.pair.guide, num_samples=5, parallel=True)(x)
    assert draws["obs"].shape == (5, 9)
    loss = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1).loss(
        *exported.pair, x, y
    )
    assert math.isfinite(loss)


def trained(structure_names=("one", "all")):
    x, y = oracles.worked_example()
    ops = {"constant": Constant(), "one": GLM([0, 11], "tanh"), "all": GLM(activation="tanh")}
    family = Family(12).edge("x", "f", ops=ops)
    model = family.model(likelihood=Gaussian(Hyper(0.5)), weight_prior=ARD(0.9))
    gates = torch.stack([family.structure(name).gates for name in structure_names])
    return x, y, model, network_evidence(model, x, y, gates, num_steps=300, evidence_batches=5)


def test_starts_at_the_guide_and_prunes_what_it_calls_uninformative():
    x, y, model, evidence = trained()
    whole = export(model, "all", guide=evidence)
    loc, scale = evidence.weights(1)["x->f/all/weight"]
    torch.testing.assert_close(whole.to_module()(x), torch.tanh(x @ loc).unsqueeze(-1))
    torch.testing.assert_close(whole.pair.guide.scale.detach(), scale)
    assert float(whole.pair.model.likelihood.scale.value) == pytest.approx(float(evidence.hyper["noise"][1]))
    torch.testing.assert_close(whole.pair.model.variances["x->f/all/weight"], torch.full((12,), 0.81))
    pruned = export(model, "all", guide=evidence, prune=0.5)
    stay = kept(loc, scale, 0.5)
    assert pruned.num_parameters == int(stay.sum()) < 12
    assert stay[0]
    expected = torch.tanh(x[:, stay] @ loc[stay])
    torch.testing.assert_close(pruned.to_module()(x)[:, 0], expected)
    site = poutine.trace(pruned.pair.model).get_trace(x, y).nodes["w/x->f/all/weight"]
    assert site["value"].shape == (int(stay.sum()),)
    draws = Predictive(pruned.pair.model, guide=pruned.pair.guide, num_samples=4, parallel=True)(x)
    assert draws["obs"].shape == (4, 50)
    # Everything pruned: no weights, a constant function.
    empty = export(model, "all", guide={"x->f/all/weight": (torch.zeros(12), torch.ones(12))}, prune=0.9)
    assert empty.num_parameters == 0
    assert (empty.to_module()(x) == 0).all()
    assert poutine.trace(empty.pair.guide).get_trace(x).stochastic_nodes == []


def test_retrains_a_copy():
    x, y, model, evidence = trained()
    exported = export(model, "one", guide=evidence)
    before = exported.pair.guide.loc.detach().clone()
    fitted = exported.retrain(x, y, num_steps=50, learning_rate=0.02, seed=0)
    assert torch.equal(exported.pair.guide.loc.detach(), before)
    assert len(fitted.losses) == 50
    again = exported.to_module(fitted)(x)
    assert not torch.equal(again, exported.to_module()(x))
    # The guide already was the optimum, so the loss starts where it stays.
    assert abs(float(fitted.losses.mean()) + float(evidence.elbo[0])) < 1.5
    cold = export(model, "one").retrain(x, y, num_steps=400, learning_rate=0.03, seed=0)
    assert abs(float(cold.losses[-100:].mean()) + float(evidence.elbo[0])) < 1.0
    assert "noise" in cold.params


def test_genotype_survives_json():
    family = two_edges("cube_vertex")
    exported = export(family.model(likelihood=Gaussian(1.0)), "x->h: {tanh, skip}; h->f: {dense}")
    again = Structure.from_genotype(json.loads(json.dumps(exported.genotype)))
    assert again == exported.structure
    assert export(family.model(likelihood=Gaussian(1.0)), again).program.weight_shapes.keys() == {
        "x->h/tanh/weight", "x->h/tanh/bias", "h->f/dense/weight", "h->f/dense/bias"
    }  # fmt: skip


def test_modules_become_operations_and_modules_again():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    family = Family(3).edge("x", "f", ops={"net": layer, "line": GLM()})
    exported = export(family.model(likelihood=Bernoulli()), "net")
    module = exported.to_module()
    assert module(torch.randn(6, 3)).shape == (6, 1)
    assert sum(p.numel() for p in module.parameters()) == exported.num_parameters == 21
    assert set(module.state_dict()) == {
        f"weights.x->f/net/{n}" for n in ("0:weight", "0:bias", "2:weight", "2:bias")
    }


def test_relative_density_threshold():
    ratio = torch.linspace(0, 2, 20001, dtype=torch.float64)
    stays = kept(ratio * 0.3, torch.full_like(ratio, 0.3), 0.95)
    assert abs(ratio[stays].min() - 0.3203) < 2e-4
    torch.testing.assert_close(
        relative_density(torch.tensor(0.7), torch.tensor(0.2)),
        (Normal(0.7, 0.2).log_prob(torch.tensor(0.0)) - Normal(0.7, 0.2).log_prob(torch.tensor(0.7))).exp(),
    )
    with pytest.raises(ValueError, match="relative density in"):
        kept(ratio, ratio + 1, 1.5)


def test_errors_say_what_is_there():
    _, _, model, evidence = trained(("one",))
    with pytest.raises(FamilyError, match="Did you mean 'constant'"):
        export(model, "constnat")
    with pytest.raises(FamilyError, match="Did you mean 'x->h: tanh; h->f: dense'"):
        export(two_edges("simplex").model(likelihood=Gaussian(1.0)), "x->h: tnh; h->f: dense")
    with pytest.raises(FamilyError, match="not a vertex"):
        export(model, torch.tensor([0.2, 0.3, 0.5]))
    with pytest.raises(
        ValueError, match=r"guide: it holds no structure 'all'; it was computed for \['one'\]"
    ):
        export(model, "all", guide=evidence)
    with pytest.raises(ValueError, match="guide: the weight 'x->f/one/weight'"):
        export(model, "one", guide={"x->f/all/weight": (torch.zeros(12), torch.ones(12))})
    with pytest.raises(ValueError, match="prune: an untrained guide"):
        export(model, "one", prune=0.95)
