"""Every mistake in a declaration is an error that names the culprit and the fix."""

import pytest
import torch

from evidentia.models.likelihood import Bernoulli as Binary
from evidentia.models.likelihood import Categorical as Classes
from evidentia.models.likelihood import Gaussian
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant, Dense, Linear, op
from evidentia.models.structure.priors import (
    Bernoulli,
    Beta,
    BetaBinomial,
    Categorical,
    Dirichlet,
    GumbelSoftmax,
    LogisticNormal,
    LogitNormal,
    RelaxedBernoulli,
)
from evidentia.models.structure.weights import ARD

OPS = {"a": GLM(), "b": GLM(columns=[0])}


def edge(**kwargs):
    return Family(3).edge("x", "f", **{"ops": OPS, **kwargs})


def two(aggregate="sum"):
    family = Family(2).edge("x", "f", ops={"a": Linear(2)}).edge("x", "h", ops={"a": Linear(3)})
    return family.edge("h", "f", ops={"wide": Linear(3)}).node("f", aggregate).check()


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        # inputs
        (lambda: Family(0), "'inputs' is empty"),
        (lambda: Family(["a", "a"]), "'a' is given twice"),
        (lambda: Family("age"), "give a list of names"),
        # the graph
        (lambda: Family(2).check(), "no edges are declared"),
        (lambda: edge().edge("f", "f", ops=OPS), "edge 'f->f': would make a cycle"),
        (lambda: edge().edge("f", "x", ops=OPS), "edge 'f->x': would make a cycle"),
        (
            lambda: edge().edge("f", "g", ops=OPS).edge("g", "f", ops=OPS),
            r"a cycle through the nodes \['f', 'g'\].*remove one of the edges \['f->g', 'g->f'\]",
        ),
        (
            lambda: edge().edge("f", "g", ops=OPS).edge("g", "h", ops=OPS).edge("g", "f", ops=OPS),
            r"a cycle through the nodes \['f', 'g'\]\.",  # h is behind the cycle
        ),
        (lambda: edge().edge("x", "g", ops=OPS).check(), r"the nodes \['f', 'g'\] are all outputs"),
        (lambda: edge().edge("h", "f", ops=OPS).check(), "node 'h' is read by 'h->f' but no edge feeds it"),
        (lambda: edge().edge("x", "f", ops=OPS), "edge 'x->f': declared twice"),
        (lambda: Family(2).edge("x", "a/b", ops=OPS), "node names are"),
        (lambda: edge().node("g", "sum").check(), "node 'g' has an aggregation but no incoming edge"),
        (lambda: edge().node("f", "max"), "unknown aggregation 'max'"),
        (lambda: edge().node("x"), "the input node has no aggregation"),
        # domains and operations
        (lambda: edge(domain="sphere"), "edge 'x->f': unknown domain 'sphere'. Use one of 'cube_vertex'"),
        (lambda: edge(ops={}), "edge 'x->f': ops is empty"),
        (lambda: edge(ops={"a": 3}), "edge 'x->f', operation 'a': unknown operation type int"),
        (lambda: edge(ops={"a": torch.tanh}), r"a plain function needs the shapes.*op\(function"),
        (lambda: edge(ops={"a": GLM}), r"got the class GLM; give an instance: GLM\(...\)"),
        (lambda: edge(ops={"a/b": GLM()}), "operation name 'a/b'"),
        (lambda: edge(ops={"": GLM()}), "operation name ''"),
        # shapes
        (
            lambda: edge(ops={"a": Linear(2), "b": Dense(4, "tanh")}),
            "edge 'x->f': operation 'b' returns 4 columns but 'a' returns 2.*change its units",
        ),
        (
            lambda: edge(ops={"a": GLM([0, 3])}),
            "edge 'x->f', operation 'a': .*column 3 is out of range.*0 to 2",
        ),
        (lambda: edge(ops={"a": GLM([-4])}), "column -4 is out of range"),
        (lambda: edge(ops={"a": GLM([2, -1])}), "same column"),
        (
            lambda: edge(ops={"a": torch.nn.Linear(4, 1)}),
            "edge 'x->f', operation 'a': .*cannot be applied to .* 3",
        ),
        (lambda: edge(ops={"a": op(lambda x: x.sum(-1))}), r"must return a tensor \(n, width\)"),
        (
            lambda: edge(ops={"a": op(lambda x, w: x @ w, w=(2, 1))}),
            "cannot be applied to an input of 3 columns",
        ),
        (
            lambda: edge(ops={"a": Linear(2)}).edge("f", "g", ops={"b": GLM([2])}).check(),
            "edge 'f->g', operation 'b': .*column 2 is out of range for an input of 2",
        ),
        (two, "node 'f': edge 'h->f' brings 3 columns but 'x->f' brings 2.*aggregate=\"concat\""),
        (lambda: two("product"), "the aggregation 'product' needs equal widths"),
        (lambda: two(lambda parts: parts[0] + parts[1]), "the aggregation cannot take inputs of widths"),
        (lambda: two(lambda parts: parts[0].sum()), "the aggregation must return a tensor"),
        # operations by themselves
        (lambda: GLM(activation="tahn"), "unknown activation 'tahn'"),
        (lambda: GLM([]), "'columns' is empty"),
        (lambda: GLM([0, 0]), "name a column twice"),
        (lambda: Dense(0), "'units' must be a positive integer"),
        (lambda: Constant(True), "'units' must be a positive integer"),
        (lambda: Dense(4, active=5), "active=5 is more than units=4"),
        (lambda: op(lambda x, w: x, w=(0,)), "weight 'w' has the size 0"),
        (lambda: op(lambda x, w: x, w=("columns",)), "weight 'w' has the size 'columns'"),
        # priors
        (lambda: edge(prior="uniform"), "prior must be a structure prior"),
        (
            lambda: edge(prior=Categorical()),
            "belongs to the domain 'simplex_vertex', but the edge has .* 'simplex'",
        ),
        (lambda: edge(domain="cube", prior=Bernoulli()), "belongs to the domain 'cube_vertex'"),
        (
            lambda: edge(domain="simplex_vertex", prior=Categorical([0, 0])),
            "edge 'x->f': .* puts zero mass on every structure",
        ),
        (lambda: edge(prior=GumbelSoftmax(1.0, [0, 0])), "puts zero mass on every structure"),
        (lambda: edge(prior=GumbelSoftmax(1.0, [1, 0])), "a relaxed law cannot exclude an operation"),
        (
            lambda: edge(prior=GumbelSoftmax(1.0, [1, 2, 3])),
            r"concentration has shape \(3,\) for 2 operations",
        ),
        (lambda: edge(prior=GumbelSoftmax(1.0, [1, -1])), "finite and not negative"),
        (lambda: edge(prior=GumbelSoftmax(1.0, [1, float("nan")])), "finite and not negative"),
        (lambda: GumbelSoftmax(0.0), "GumbelSoftmax: the temperature must be a positive number, got 0.0"),
        (lambda: Dirichlet(-1.0), "Dirichlet: the temperature must be a positive number"),
        (lambda: LogisticNormal(float("inf")), "LogisticNormal: the temperature must be"),
        (lambda: RelaxedBernoulli(0.0), "RelaxedBernoulli: the temperature must be"),
        (lambda: Beta(float("nan")), "Beta: the temperature must be"),
        (lambda: LogitNormal(-2.0), "LogitNormal: the temperature must be"),
        (lambda: edge(prior=LogisticNormal(loc=[0.0])), "one mean per operation"),
        (lambda: edge(prior=LogisticNormal(scale=[1.0, 0.0])), "must be positive"),
        (lambda: edge(domain="cube", prior=LogitNormal(loc=[0.0])), "give one number, or one each"),
        (lambda: edge(domain="cube", prior=RelaxedBernoulli(1.0, 1.0)), "strictly between 0 and 1"),
        (lambda: edge(domain="cube", prior=Beta(1.0, a=[0.0, 1.0])), "must be positive"),
        (lambda: edge(domain="cube_vertex", prior=Bernoulli(1.5)), "one probability in"),
        (lambda: edge(domain="cube_vertex", prior=Bernoulli([0.5])), "one for each of the 2 operations"),
        (lambda: BetaBinomial(0, 1), "a and b must be positive"),
        # the model
        (lambda: edge().model(likelihood=0.5), "'likelihood' must be a Likelihood"),
        (
            lambda: edge().model(likelihood=Gaussian(), weight_prior=1.0),
            "'weight_prior' must be an ARD prior",
        ),
        (lambda: edge().model(likelihood=Gaussian(), structure="c"), "no operation 'c'"),
        (lambda: ARD(0), "'scale' must be a positive standard deviation"),
        (lambda: ARD(shape=1), "both 'shape' and 'rate'"),
        (lambda: ARD(shape=-1, rate=0), "must not be negative"),
        (lambda: ARD(shape=0, rate=0, hyper="sample"), "improper and cannot be sampled"),
        (lambda: ARD(hyper="sample"), "needs the hyperprior"),
        (lambda: ARD(hyper="other"), "'param' or 'sample'"),
        (lambda: ARD().map_variance(torch.ones(1)), "map_variance needs the hyperprior"),
    ],
)
def test_mistake_is_named_with_its_fix(declare, message) -> None:
    with pytest.raises(FamilyError, match=f"(?s){message}"):
        declare()
    assert issubclass(FamilyError, ValueError)


def test_likelihood_that_cannot_read_the_output() -> None:
    wide = Family(3).edge("x", "f", ops={"a": Linear(2)})
    with pytest.raises(ValueError, match="Bernoulli: expected an output node of width 1, got width 2"):
        wide.model(likelihood=Binary())
    with pytest.raises(ValueError, match="one column per class, got width 1"):
        edge().model(likelihood=Classes())


def test_a_refused_edge_leaves_the_family_unchanged() -> None:
    family = edge()
    for wrong in (
        lambda: family.edge("f", "x", ops=OPS),
        lambda: family.edge("f", "g", ops={}),
        lambda: family.edge("x", "g", ops={"a": GLM([9])}),
    ):
        with pytest.raises(FamilyError):
            wrong()
    assert [e.name for e in family.edges] == ["x->f"]


def test_arguments_of_the_pure_value() -> None:
    family = edge()
    x, gates = torch.randn(4, 3), torch.tensor([1.0, 0.0])
    weights = {k: torch.zeros(s) for k, s in family.weight_shapes.items()}
    with pytest.raises(FamilyError, match=r"'x' has shape \(4, 2\), expected \(n, 3\)"):
        family.apply(x[:, :2], gates, weights)
    with pytest.raises(FamilyError, match=r"'gates' has shape \(1,\), expected \(\*batch, 2\)"):
        family.apply(x, gates[:1], weights)
    with pytest.raises(FamilyError, match=r"weight 'x->f/b/weight' of shape .* is missing"):
        family.apply(x, gates, {"x->f/a/weight": torch.zeros(3)})
    with pytest.raises(FamilyError, match=r"weight 'x->f/a/weight' has shape \(2,\)"):
        family.apply(x, gates, {**weights, "x->f/a/weight": torch.zeros(2)})


def test_node_declared_before_its_edges_and_widths_that_fit_later() -> None:
    family = Family(2).node("h", "concat").edge("h", "f", ops={"a": GLM([4])})
    family.edge("x", "h", ops={"a": Linear(3)}).edge("x", "g", ops={"a": Linear(2)})
    family.edge("g", "h", ops={"b": Linear(2)})
    assert family.check().widths == {"x": 2, "g": 2, "h": 5, "f": 1}
