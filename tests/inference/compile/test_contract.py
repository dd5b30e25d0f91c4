"""Sums of products as matrix products: the same numbers to rounding, in every order of dimensions."""

import itertools

import pytest
import torch

from evidentia.inference.compile.backend import build
from evidentia.inference.compile.capture import capture
from evidentia.inference.compile.contract import contract_sums

_aten = torch.ops.aten


def _targets(graph):
    return {node.target for node in graph.graph.nodes if node.op == "call_function"}


def _check(function, inputs, expect):
    graph = capture(function, inputs)
    assert bool(_targets(contract_sums(graph)) & {_aten.mm.default, _aten.mv.default}) is expect
    if expect:
        assert _aten.mul.Tensor not in _targets(graph)
    run = build(graph, "aten", inputs)
    for one in inputs:
        one.copy_(torch.randn(one.shape, dtype=one.dtype))
    expected, got = function(), run(*inputs)
    assert got.shape == expected.shape
    assert got.stride() == expected.stride()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("keep", [False, True])
def test_all_orders_of_row_column_and_sum(order, keep):
    sizes = {"row": 17, "column": 23, "inner": 9}
    left, right = [1, 1, 1], [1, 1, 1]
    for place, name in zip(order, sizes, strict=True):
        left[place] = sizes[name] if name != "column" else 1
        right[place] = sizes[name] if name != "row" else 1
    a, b = torch.randn(left), torch.randn(right)
    _check(lambda: (a * b).sum(order[2], keepdim=keep), [a, b], expect=True)
    _check(lambda: (b * a).sum(order[2] - 3, keepdim=keep), [a, b], expect=True)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_matrix_and_a_vector(keep, dim):
    x = torch.randn(300, 10, dtype=torch.float64)
    w = torch.randn(x.shape[dim], dtype=torch.float64)
    _check(lambda: (x * (w if dim else w.unsqueeze(-1))).sum(dim, keepdim=keep), [x, w], expect=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: (x * w).sum(0),  # the sum runs over rows that only one factor has
        lambda x, w: (x * w).sum(),
        lambda x, w: (x * x).sum(-1),
        lambda x, w: (lambda product: product.sum(-1) + product[:, 0])(x * w),
        lambda x, w: (x * w[:1]).sum(-1),
        lambda x, w: (x[:10] * w).sum(-1),  # small
        lambda x, w: (x.view(30, 10, 10) * w.view(10, 1).expand(30, 10, 10)).sum((1, 2)),
    ],
)
def test_other_sums_stay(function):
    x, w = torch.randn(300, 10), torch.randn(10)
    _check(lambda: function(x, w), [x, w], expect=False)


def test_factors_are_read_before_a_later_write():
    x, w = torch.randn(300, 10), torch.randn(10)

    def run():
        y = w * 1.5
        product = x * y
        y.mul_(2.0)
        return product.sum(-1), y

    graph = capture(run, [x, w])
    assert _aten.mv.default in _targets(contract_sums(graph))
    graph.recompile()
    torch.testing.assert_close(graph(x, w), run())
