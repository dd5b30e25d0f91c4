"""Operations: shapes, values, batches, linear designs."""

import pytest
import torch
from torch import Size, nn

from evidentia.models.structure.base_op import ACTIVATIONS
from evidentia.models.structure.custom_ops import Module, as_op
from evidentia.models.structure.ops import GLM, Constant, Dense, Identity, Linear, Op, Zero, op

OPS = {
    "constant": Constant(),
    "constants": Constant(3),
    "glm": GLM(),
    "glm columns": GLM([2, -4], "tanh", bias=True),
    "glm linear": GLM([1], bias=True),
    "dense": Dense(4, "relu"),
    "dense narrow": Dense(4, torch.tanh, bias=False, active=2, columns=[0, 1]),
    "linear": Linear(1),
    "linear wide": Linear(3, bias=False),
    "identity": Identity(),
    "zero": Zero(),
    "zeros": Zero(2),
    "function": op(lambda x, a, b: a * (x @ b), a=(), b=("inputs", 2)),
    "function of x": op(lambda x: x**2),
    "module": Module(nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))),
    "module without weights": Module(nn.Tanh()),
}


@pytest.mark.parametrize("name", OPS)
def test_every_operation_keeps_its_word(name: str) -> None:
    g = OPS[name]
    assert isinstance(g, Op)
    x = torch.randn(5, 4)
    shapes = g.shapes(4)
    width = g.width(4)
    single = {k: torch.randn(s) for k, s in shapes.items()}
    value = g(x, **single)
    assert value.shape == (5, width)
    # batches of weights, of inputs, and of both broadcast
    batch = {k: torch.randn(3, 2, *s) for k, s in shapes.items()}
    out = g(x, **batch)
    assert torch.broadcast_shapes(out.shape, (3, 2, 5, width)) == (3, 2, 5, width)
    if shapes:
        assert out.shape == (3, 2, 5, width)
        torch.testing.assert_close(out[2, 1], g(x, **{k: v[2, 1] for k, v in batch.items()}))
    hidden = torch.randn(2, 5, 4)
    out = g(hidden, **batch)
    out = out.expand(3, 2, 5, width)
    torch.testing.assert_close(out[1, 0], g(hidden[0], **{k: v[1, 0] for k, v in batch.items()}))
    # under vmap over weights
    if shapes:
        flat = {k: v[:, 0] for k, v in batch.items()}
        torch.testing.assert_close(torch.vmap(lambda w: g(x, **w))(flat), g(x, **flat))
    # a design, where there is one, reproduces the value
    design = g.design(x)
    if design is not None:
        flat_weights = torch.cat([torch.zeros(0), *(v.flatten() for v in single.values())])
        torch.testing.assert_close(design @ flat_weights, value[:, 0])
    assert repr(g)


def test_which_operations_are_linear() -> None:
    linear = {name for name, g in OPS.items() if g.design(torch.randn(5, 4)) is not None}
    assert linear == {"constant", "glm", "glm linear", "linear"}
    assert Zero(1).design(torch.randn(5, 4)).shape == (5, 0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_name(name: str) -> None:
    x, w = torch.randn(5, 4), torch.randn(4)
    torch.testing.assert_close(GLM(activation=name)(x, weight=w)[:, 0], ACTIVATIONS[name](x @ w))
    torch.testing.assert_close(GLM(activation="identity")(x, weight=w)[:, 0], x @ w)


def test_negative_columns_count_from_the_end() -> None:
    x = torch.randn(5, 4)
    torch.testing.assert_close(GLM([-1])(x, weight=torch.ones(1))[:, 0], x[:, 3])


def test_a_module_is_never_modified() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    g = as_op("edge", net)
    g.width(4)
    w = {k: torch.randn(s) for k, s in g.shapes(4).items()}
    g(torch.randn(6, 4), **w)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net.eval()
    batch = {k: torch.randn(3, *s, dtype=torch.float64) for k, s in g.shapes(4).items()}
    assert g(torch.randn(6, 4, dtype=torch.float64), **batch).shape == (3, 6, 1)


def test_dead_units_are_zero_and_have_no_weights() -> None:
    g = Dense(4, "sigmoid", active=2)
    assert g.shapes(3) == {"weight": Size([3, 2]), "bias": Size([2])}
    out = g(torch.randn(5, 3), weight=torch.randn(3, 2), bias=torch.randn(2))
    assert (out[:, 2:] == 0).all()
    assert (out[:, :2] > 0).all()
