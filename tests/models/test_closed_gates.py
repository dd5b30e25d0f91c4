"""Operations that are not finite: structures without them keep their value and every gradient."""

import pytest
import torch
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from evidentia.inference.structure.networks import network_evidence
from evidentia.models.likelihood import Gaussian
from evidentia.models.structure.custom_ops import op
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant, Dense


@pytest.fixture(autouse=True)
def double() -> None:
    torch.set_default_dtype(torch.float64)


def exploding(x, weight):
    """exp overflows for every x here, and with it the derivatives."""
    return torch.exp(1e3 * x[:, :1] * (1 + weight.square()))


def one_edge(domain="simplex_vertex") -> Family:
    ops = {"line": GLM(), "exploding": op(exploding, weight=[1]), "flat": Constant()}
    return Family(1).edge("x", "f", ops=ops, domain=domain)


def two_edges() -> Family:
    hidden = {"tanh": Dense(1, "tanh"), "exploding": op(exploding, weight=[1])}
    return Family(1).edge("x", "h", ops=hidden).edge("h", "f", ops={"dense": Dense(1), "flat": Constant()})


X = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)


def weights_of(family: Family, batch=()) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn((*batch, *shape), generator=generator, dtype=torch.float64)
        for name, shape in family.weight_shapes.items()
    }


@pytest.mark.parametrize("make", [one_edge, two_edges])
@pytest.mark.parametrize("batched", [True, False])
def test_structures_without_the_operation_are_finite_with_their_gradients(make, batched: bool) -> None:
    family = make()
    gates = family.vertices().double()
    good = torch.tensor(["exploding" not in s or "flat" in s for s in map(family.label, gates)])
    assert not family.apply(X, gates[~good], weights_of(family)).isfinite().any()
    gates = gates[good].requires_grad_()
    weights = weights_of(family, (len(gates),) if batched else ())
    for value in weights.values():
        value.requires_grad_()
    out = family.apply(X, gates, weights)
    assert out.isfinite().all()
    found = torch.autograd.grad(out.sum(), [gates, *weights.values()])
    assert all(part.isfinite().all() for part in found)
    assert all((part != 0).any() for part, name in zip(found[1:], weights, strict=True) if "expl" not in name)


def test_the_gradient_of_a_closed_gate_is_the_value_of_its_operation() -> None:
    family, weights = one_edge(), weights_of(one_edge())
    gates = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    (found,) = torch.autograd.grad(family.apply(X, gates, weights).sum(), gates)
    line = (X @ weights["x->f/line/weight"]).sum()
    torch.testing.assert_close(
        found, torch.stack([line, torch.zeros(()), 3 * weights["x->f/flat/weight"][0]])
    )


def test_second_derivatives_through_a_closed_gate_stay() -> None:
    family, weights = one_edge(), weights_of(one_edge())
    gates = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    slope = weights["x->f/line/weight"].requires_grad_()
    (first,) = torch.autograd.grad(family.apply(X, gates, weights).sum(), gates, create_graph=True)
    (mixed,) = torch.autograd.grad(first[0], slope)
    torch.testing.assert_close(mixed, X.sum().reshape(slope.shape))


def test_an_operation_that_is_open_is_not_masked() -> None:
    family = one_edge("cube")
    for gates in ([1.0, 1.0, 0.0], [0.5, 0.1, 0.4]):
        assert not family.apply(X, torch.tensor(gates), weights_of(family)).isfinite().any()


def test_it_works_under_the_function_transforms() -> None:
    family = one_edge()
    gates, weights = family.vertices().double(), weights_of(family, (3,))

    def total(weights, gates):
        return family.apply(X, gates, weights).sum()

    found = vmap(grad(total))(weights, gates)
    assert all(part[[0, 2]].isfinite().all() for part in found.values())
    torch.testing.assert_close(found["x->f/line/weight"][0].squeeze(), X.sum())


def test_it_can_be_traced_once_for_all_structures() -> None:
    family = one_edge()
    weights, gates = weights_of(family), family.vertices().double()

    def slope(line, gates):
        return torch.autograd.grad(family.apply(X, gates, weights | {"x->f/line/weight": line}).sum(), line)[
            0
        ]

    line = weights["x->f/line/weight"].requires_grad_()
    traced = make_fx(slope)(line, gates[0])  # where nothing has to be guarded
    for row, expected in ((gates[0], X.sum()), (gates[2], torch.zeros(()))):
        torch.testing.assert_close(traced(line, row).squeeze(), expected)


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("make", [one_edge, two_edges])
def test_their_evidence_does_not_suffer(make) -> None:
    family = make()
    model = family.model(likelihood=Gaussian(0.5))
    gates = family.vertices().double()
    labels = [family.label(row) for row in gates]
    good = torch.tensor(["exploding" not in label or "flat" in label for label in labels])
    options = {"num_steps": 100, "seed": 1}
    found = network_evidence(model, X, X[:, 0], gates, **options)
    alone = network_evidence(model, X, X[:, 0], gates[good], **options)
    assert found.elbo[good].isfinite().all()
    torch.testing.assert_close(found.elbo[good], alone.elbo)
    start = network_evidence(model, X, X[:, 0], gates, num_steps=0, seed=1)
    assert (found.elbo[good] > start.elbo[good]).all()  # the updates were not skipped
