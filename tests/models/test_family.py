"""Counting, numbering, labelling and evaluating the structures of a family."""

import itertools
import json

import pytest
import torch

from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant, Dense, Identity, Linear, Zero
from evidentia.models.structure.priors import Bernoulli, BetaBinomial, Categorical, GumbelSoftmax
from evidentia.models.structure.structure import Structure


def mixed() -> Family:
    """Two inputs to a hidden node, one edge per domain."""
    family = Family(inputs=3)
    family.edge(
        "h", "f", domain="cube_vertex", prior=BetaBinomial(1, 2), ops={"id": Identity(), "bias": Constant(4)}
    )
    family.edge("x", "h", domain="simplex", ops={"a": Dense(4, "tanh"), "b": Linear(4), "zero": Zero(4)})
    family.edge(
        "x", "f", domain="simplex_vertex", prior=Categorical([1, 3]), ops={"skip": Dense(4), "none": Zero(4)}
    )
    return family


def test_edges_are_ordered_by_the_graph() -> None:
    family = mixed()
    assert [e.name for e in family.edges] == ["x->h", "h->f", "x->f"]
    assert family.output == "f"
    assert family.width == 4
    assert family.num_gates == 7
    assert family.gate_names[:4] == ("x->h/a", "x->h/b", "x->h/zero", "h->f/id")
    assert family.inputs == ("x0", "x1", "x2")


def test_vertices_are_all_structures_in_mixed_radix_order() -> None:
    family = mixed()
    assert family.num_structures == 3 * 4 * 2
    vertices = family.vertices()
    assert vertices.shape == (24, 7)
    assert len({tuple(v) for v in vertices.tolist()}) == 24
    expected = [
        [*a, *b, *c]
        for a, b, c in itertools.product(
            [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 0], [1, 0], [0, 1], [1, 1]], [[1, 0], [0, 1]]
        )
    ]
    assert vertices.tolist() == expected
    assert torch.equal(family.vertices(5, 9), vertices[5:9])
    for i in range(24):
        structure = family.structure(i)
        assert torch.equal(structure.gates, vertices[i])
        assert family.structure(vertices[i]) == structure
        assert family.structure(structure.label) == structure
        assert family.structure(structure.choices) == structure
        assert family.structure(structure) == structure
        assert family.label(vertices[i]) == structure.label


def test_labels() -> None:
    family = mixed()
    assert family.structure(0).label == "x->h: a; h->f: {}; x->f: skip"
    assert family.structure(23).label == "x->h: zero; h->f: {id, bias}; x->f: none"
    assert str(family.structure(0)) == family.structure(0).label


def test_large_cubes_are_numbered_without_listing() -> None:
    names = [f"c{i}" for i in range(70)]
    family = Family(names).edge(
        "x", "f", domain="cube_vertex", ops={n: GLM(columns=[i]) for i, n in enumerate(names)}
    )
    assert family.num_structures == 2**70
    assert family.structure(2**69 + 1).choices == {"x->f": ("c0", "c69")}
    assert family.vertices(3, 5).sum(-1).tolist() == [2.0, 1.0]
    with pytest.raises(FamilyError, match=r"at once; ask for at most 16777216"):
        family.vertices()
    with pytest.raises(FamilyError, match="not inside"):
        family.vertices(5, 3)


def test_genotype_round_trip_through_json() -> None:
    family = mixed()
    structure = family.structure(13)
    text = json.dumps(structure.genotype())
    assert Structure.from_genotype(json.loads(text)) == structure
    assert hash(Structure.from_genotype(json.loads(text))) == hash(structure)
    with pytest.raises(FamilyError, match="'format'"):
        Structure.from_genotype({"edges": []})
    broken = structure.genotype()
    del broken["edges"][0]["ops"]
    with pytest.raises(FamilyError, match="a field is missing"):
        Structure.from_genotype(broken)
    wrong = structure.genotype()
    wrong["edges"][0]["chosen"] = ["other"]
    with pytest.raises(FamilyError, match="no operation 'other'"):
        Structure.from_genotype(wrong)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (24, "not one of 0 … 23"),
        (-1, "not one of"),
        (True, "expected a number"),
        (1.5, "expected a number"),
        ("a", "cannot read 'a'"),
        ("x->h: a; h->f: {}", "choice for edge 'x->f' is missing"),
        ({"x->h": "a", "h->f": (), "x->f": "other"}, "no operation 'other'"),
        ({"x->h": "a", "h->f": (), "x->f": "skip", "y->f": "z"}, "there is no edge 'y->f'"),
        ({"x->h": ("a", "b"), "h->f": (), "x->f": "skip"}, "needs exactly one operation"),
        (torch.full((7,), 0.5), "not a vertex"),
        (torch.zeros(7), "not a vertex"),
        (torch.zeros(3), r"expected \(7,\)"),
    ],
)
def test_no_such_structure(which, message) -> None:
    with pytest.raises(FamilyError, match=message):
        mixed().structure(which)


def test_structure_of_another_family_is_refused() -> None:
    other = Family(1).edge("x", "f", ops={"a": GLM()}).structure(0)
    with pytest.raises(FamilyError, match="belongs to a family"):
        mixed().structure(other)


def test_prior_sums_to_one_and_multiplies_over_edges() -> None:
    family = mixed()
    log_prior = family.log_prior(family.vertices().double())
    assert abs(float(log_prior.exp().sum()) - 1) < 1e-12
    structure = family.structure({"x->h": "a", "h->f": ("id",), "x->f": "none"})
    # beta-binomial(1, 2) with one of two on: B(2, 3)/B(1, 2) = 1/6
    expected = torch.tensor(1 / 3 * 1 / 6 * 3 / 4, dtype=torch.float64).log()
    torch.testing.assert_close(family.log_prior(structure.gates.double()), expected)
    batch = family.vertices().reshape(4, 6, 7)
    assert family.log_prior(batch).shape == (4, 6)
    assert torch.isneginf(family.log_prior(torch.full((7,), 0.5)))
    torch.testing.assert_close(
        torch.vmap(family.log_prior)(family.vertices()), family.log_prior(family.vertices())
    )


def test_duplicate_permutation_and_unused_operation_in_the_prior() -> None:
    base = {"a": GLM(), "b": GLM(columns=[0])}
    one = Family(2).edge("x", "f", ops=base)
    two = Family(2).edge("x", "f", ops={**base, "b again": GLM(columns=[0])})
    p, q = (f.log_prior(f.vertices().double()).exp() for f in (one, two))
    assert p.tolist() == [0.5, 0.5]
    # a uniform prior counts a duplicate; splitting the weight of b gives each copy half of it
    assert q.tolist() == pytest.approx([1 / 3] * 3)
    prior = GumbelSoftmax(1.0, [2, 1, 1])
    split = Family(2).edge("x", "f", ops={**base, "b again": GLM(columns=[0])}, prior=prior)
    assert split.log_prior(split.vertices().double()).exp().tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_live_operations_and_their_parameters() -> None:
    family = mixed()
    count = {family.label(g): int(family.num_parameters(g)) for g in family.vertices()}
    a, skip = 3 * 4 + 4, 3 * 4 + 4
    assert count["x->h: a; h->f: {id}; x->f: none"] == a
    assert count["x->h: a; h->f: {}; x->f: none"] == 0  # nothing reads the hidden node
    assert count["x->h: a; h->f: {bias}; x->f: none"] == 4  # a constant does not read it either
    assert count["x->h: zero; h->f: {id, bias}; x->f: skip"] == 4 + skip
    assert family.num_parameters(family.vertices().reshape(2, 12, 7)).shape == (2, 12)


def test_value_is_the_formula() -> None:
    family = mixed()
    x = torch.randn(5, 3, dtype=torch.float64)
    w = {k: torch.randn(s, dtype=torch.float64) for k, s in family.weight_shapes.items()}
    gates = torch.rand(7, dtype=torch.float64)
    h = gates[0] * torch.tanh(x @ w["x->h/a/weight"] + w["x->h/a/bias"])
    h = h + gates[1] * (x @ w["x->h/b/weight"] + w["x->h/b/bias"])
    f = gates[3] * h + gates[4] * w["h->f/bias/weight"]
    f = f + gates[5] * (x @ w["x->f/skip/weight"] + w["x->f/skip/bias"])
    torch.testing.assert_close(family.apply(x, gates, w), f)


@pytest.mark.parametrize(
    ("aggregate", "combine"),
    [
        ("sum", lambda a, b: a + b),
        ("mean", lambda a, b: (a + b) / 2),
        ("product", lambda a, b: a * b),
        ("concat", lambda a, b: torch.cat([a, b], -1)),
        (lambda parts: parts[0] * parts[1].tanh(), lambda a, b: a * b.tanh()),
    ],
)
def test_aggregations(aggregate, combine) -> None:
    family = Family(2)
    family.edge("x", "a", ops={"l": Linear(2)}).edge("x", "b", ops={"l": Linear(2)})
    family.edge("a", "f", ops={"id": Identity()}).edge("b", "f", ops={"id": Identity()})
    family.node("f", aggregate)
    x = torch.randn(5, 2)
    w = {k: torch.randn(3, *s) for k, s in family.weight_shapes.items()}
    a, b = (x @ w[f"x->{n}/l/weight"] + w[f"x->{n}/l/bias"][:, None] for n in "ab")
    expected = combine(a, b)
    assert family.width == expected.shape[-1]
    torch.testing.assert_close(family.apply(x, torch.ones(3, 4), w), expected)


def test_leading_dimensions_broadcast_and_vmap_agrees() -> None:
    family = mixed()
    x = torch.randn(5, 3, dtype=torch.float64)
    w = {k: torch.randn(6, *s, dtype=torch.float64) for k, s in family.weight_shapes.items()}
    gates = torch.rand(6, 7, dtype=torch.float64)
    batch = family.apply(x, gates, w)
    assert batch.shape == (6, 5, 4)
    loop = torch.stack([family.apply(x, gates[i], {k: v[i] for k, v in w.items()}) for i in range(6)])
    torch.testing.assert_close(batch, loop)
    mapped = torch.func.vmap(lambda g, v: family.apply(x, g, v))(gates, w)
    torch.testing.assert_close(mapped, batch)
    # 4 structures by 6 sets of weights
    cross = family.apply(x, torch.rand(4, 1, 7, dtype=torch.float64), w)
    assert cross.shape == (4, 6, 5, 4)


def test_design_reproduces_the_value() -> None:
    family = Family(3).edge(
        "x",
        "f",
        domain="cube_vertex",
        ops={"const": Constant(), "one": GLM([1]), "two": GLM([0, 2], bias=True), "net": Linear(1)},
    )
    x = torch.randn(6, 3, dtype=torch.float64)
    matrix, gate = family.design(x)
    assert gate.tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 3]
    w = {k: torch.randn(s, dtype=torch.float64) for k, s in family.weight_shapes.items()}
    flat = torch.cat([v.flatten() for v in w.values()])
    gates = torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(family.apply(x, gates, w)[:, 0], matrix @ (gates[gate] * flat))


def test_design_names_the_operation_that_prevents_it() -> None:
    x = torch.randn(4, 3)
    family = Family(3).edge("x", "f", ops={"line": GLM(), "curve": GLM(activation="tanh")})
    with pytest.raises(FamilyError, match="operation 'curve' of edge 'x->f'"):
        family.design(x)
    with pytest.raises(FamilyError, match="has 3 edges"):
        mixed().design(x)


def test_dtype_follows_the_gates() -> None:
    torch.set_default_dtype(torch.float64)
    assert mixed().vertices().dtype == torch.float64
    assert Family(1).edge("x", "f", ops={"a": GLM()}).structure(0).gates.dtype == torch.float64


def test_printing_shows_the_declaration() -> None:
    text = repr(mixed().node("f", "sum"))
    for part in ("Family(inputs=3)", "x->h [simplex]", "zero: Zero(units=4)", "BetaBinomial", "node f: sum"):
        assert part in text


def test_default_priors_are_uniform() -> None:
    for domain in ("simplex", "simplex_vertex", "cube", "cube_vertex"):
        family = Family(2).edge("x", "f", domain=domain, ops={"a": GLM(), "b": GLM([0])})
        mass = family.log_prior(family.vertices()).exp()
        torch.testing.assert_close(mass, torch.full_like(mass, 1 / family.num_structures))
    assert isinstance(family.edges[0].prior, Bernoulli)
