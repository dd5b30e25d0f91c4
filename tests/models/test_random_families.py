"""Invariants of families with random graphs, operations and domains."""

import random

import pytest
import torch

from evidentia.models.likelihood import Gaussian
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import Constant, Dense, Identity, Linear, Zero

DTYPE = torch.float64


def random_family(seed: int) -> Family:
    """Up to four nodes of width 2 after the input, random edges, two or three operations each."""
    rng = random.Random(seed)
    nodes = ["x", "a", "b", "f"][: rng.randint(2, 4)]
    nodes[-1] = "f"
    edges = {(s, t) for i, t in enumerate(nodes) for s in nodes[:i] if rng.random() < 0.7}
    edges |= {(nodes[i], nodes[i + 1]) for i in range(len(nodes) - 1)}
    menu = {
        "dense": Dense(2, "tanh"),
        "linear": Linear(2, bias=False),
        "narrow": Dense(2, "tanh", active=1),
        "skip": Identity(),
        "const": Constant(2),
        "zero": Zero(2),
    }
    family = Family(2)
    for source, target in rng.sample(sorted(edges), len(edges)):
        names = rng.sample(sorted(menu), rng.choice([1, 2, 2, 3]))
        domain = rng.choice(["simplex", "simplex_vertex", "cube", "cube_vertex"])
        family.edge(source, target, ops={n: menu[n] for n in names}, domain=domain)
    for node in nodes[1:]:
        family.node(node, rng.choice(["sum", "mean"]))
    return family


@pytest.mark.parametrize("seed", range(12))
def test_invariants(seed: int) -> None:
    torch.manual_seed(seed)
    family = random_family(seed)
    total = family.num_structures
    rows = torch.randperm(total)[:16].tolist()
    gates = torch.stack([family.structure(i).gates for i in rows]).to(DTYPE)
    x = torch.randn(3, 2, dtype=DTYPE)
    u = {
        k: torch.randn(len(rows), *s, dtype=DTYPE, requires_grad=True)
        for k, s in family.weight_shapes.items()
    }

    # numbers, labels, gates and genotypes name the same structures
    for i, g in zip(rows, gates, strict=True):
        structure = family.structure(g)
        assert structure == family.structure(i) == family.structure(structure.label)
        assert structure == type(structure).from_genotype(structure.genotype())
    if total <= 4096:
        mass = family.log_prior(family.vertices().to(DTYPE)).exp()
        assert abs(float(mass.sum()) - 1) < 1e-10
        assert torch.equal(family.vertices()[rows].to(DTYPE), gates)

    # all structures at once, one by one, and under vmap
    value = family.apply(x, gates, u)
    mapped = torch.func.vmap(lambda g, w: family.apply(x, g, w))(gates, u)
    torch.testing.assert_close(mapped, value)

    # a weight of a dead operation has no influence, and a fixed structure needs the live ones only
    grads = torch.autograd.grad(value.square().sum(), list(u.values()), allow_unused=True)
    model_of = {i: family.model(likelihood=Gaussian(0.5), structure=i) for i in rows}
    count = family.num_parameters(gates)
    whole = family.model(likelihood=Gaussian(0.5))
    y = torch.randn(3, 2, dtype=DTYPE)
    terms = whole.log_likelihood(x, y, gates, u)
    for j, i in enumerate(rows):
        live = model_of[i].weight_shapes
        assert int(count[j]) == sum(s.numel() for s in live.values())
        for (name, _), grad in zip(u.items(), grads, strict=True):
            if name not in live and grad is not None:
                assert (grad[j] == 0).all()
        own = {k: v[j] for k, v in u.items() if k in live}
        torch.testing.assert_close(model_of[i].log_likelihood(x, y, None, own), terms[j])


@pytest.mark.parametrize("seed", range(6))
def test_live_weights_have_influence(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    family = Family(2)
    for source, target in [("x", "a"), ("x", "b"), ("a", "b"), ("b", "f"), ("a", "f")]:
        ops = {"dense": Dense(2, "tanh"), "linear": Linear(2), "skip": Identity(), "const": Constant(2)}
        names = rng.sample(sorted(ops), 3)
        family.edge(source, target, ops={n: ops[n] for n in names}, domain="simplex_vertex")
    for i in rng.sample(range(family.num_structures), 8):
        gates = family.structure(i).gates.to(DTYPE)
        u = {k: torch.randn(s, dtype=DTYPE, requires_grad=True) for k, s in family.weight_shapes.items()}
        value = family.apply(torch.randn(3, 2, dtype=DTYPE), gates, u)
        grads = torch.autograd.grad(value.square().sum(), list(u.values()), allow_unused=True)
        live = family.model(likelihood=Gaussian(0.5), structure=i).weight_shapes
        influential = {k for k, g in zip(u, grads, strict=True) if g is not None and (g != 0).any()}
        assert influential == set(live)
