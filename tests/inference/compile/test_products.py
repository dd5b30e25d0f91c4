"""Faster products: the same numbers to rounding, where and only where they pay."""

import pytest
import torch

from evidentia.inference.compile.backend import build
from evidentia.inference.compile.capture import capture
from evidentia.inference.compile.products import faster_products

_aten = torch.ops.aten


def _targets(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("columns", [2, 10, 15])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_a_narrow_product_is_computed_transposed(columns, bias, turned):
    x, w, b = torch.randn(300, 200), torch.randn(200, columns), torch.randn(columns)
    x = x.t().contiguous() if turned else x

    def run():
        left = x.t() if turned else x
        return torch.addmm(b, left, w) if bias else torch.mm(left, w)

    inputs = [x, w, b]
    graph = faster_products(capture(run, inputs))
    (product,) = [n for n in graph.graph.nodes if n.target in (_aten.mm.default, _aten.addmm.default)]
    assert _targets(graph).count(_aten.clone.default) == 1
    x.copy_(torch.randn_like(x))
    expected = run()
    graph.recompile()
    got = graph(*inputs)
    assert got.is_contiguous()
    exact = x.double().t() if turned else x.double()
    exact = exact @ w.double() + (b.double() if bias else 0.0)
    # Each sum of 200 products may differ in rounding; a wrong order of operands would differ by its size.
    for one in (got, expected):
        assert float((one - exact).abs().max()) < 200 * torch.finfo(torch.float32).eps * 20
    assert (product.args[-1].target is _aten.t.default) is not turned  # no transpose of a transpose


@pytest.mark.parametrize("shape", [(300, 200, 1), (300, 200, 16), (20, 20, 10), (8, 4000, 10)])
def test_other_products_stay(shape):
    rows, inner, columns = shape
    x, w = torch.randn(rows, inner), torch.randn(inner, columns)
    assert _targets(faster_products(capture(lambda: x @ w, [x, w]))) == [_aten.mm.default]


def test_double_precision_stays():
    x, w = torch.randn(300, 200).double(), torch.randn(200, 10).double()
    assert _targets(faster_products(capture(lambda: x @ w, [x, w]))) == [_aten.mm.default]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_tangent_is_right_to_a_unit_in_the_last_place(scale):
    layer = torch.nn.Linear(3, 400)
    x = scale * torch.randn(5, 40, 3)
    inputs = [*layer.parameters(), x]
    graph = capture(lambda: torch.tanh(layer(x)), inputs)
    count = len(_targets(graph))
    run = build(graph, "aten", inputs)
    assert torch.ops.mkldnn._linear_pointwise.default in _targets(graph)
    assert len(_targets(graph)) < count
    with torch.no_grad():
        got, before = run(*inputs), torch.nn.functional.linear(x, *inputs[:2])
    # What goes in differs by rounding too, which moves the tangent by no more than that.
    size = (x.abs() @ layer.weight.abs().t() + layer.bias.abs()).detach()
    error = (got.double() - torch.tanh(before.double())).abs()
    assert bool((error <= torch.finfo(torch.float32).eps * (got.abs() + 4 * size)).all())


def test_a_linear_result_that_is_read_twice_is_not_hidden():
    layer, x = torch.nn.Linear(3, 400), torch.randn(40, 3)

    def run():
        y = layer(x)
        return torch.tanh(y), y

    inputs = [*layer.parameters(), x]
    graph = faster_products(capture(run, inputs))
    assert torch.ops.mkldnn._linear_pointwise.default not in _targets(graph)
    small = torch.randn(2, 3)
    graph = faster_products(capture(lambda: torch.tanh(layer(small)), [*layer.parameters(), small]))
    assert torch.ops.mkldnn._linear_pointwise.default not in _targets(graph)


@pytest.mark.parametrize("bias", [False, True])
def test_a_large_product_is_done_by_onednn(bias):
    x, w, b = torch.randn(2000, 100), torch.randn(100, 60), torch.randn(60)
    weight = w.t().contiguous()

    def run():
        return torch.addmm(b, x, weight.t()) if bias else torch.mm(x, w)

    inputs = [x, w, b, weight]
    graph = faster_products(capture(run, inputs))
    assert torch.ops.mkldnn._linear_pointwise.default in _targets(graph)
    graph.recompile()
    x.copy_(torch.randn_like(x))
    exact = x.double() @ w.double() + (b.double() if bias else 0.0)
    assert float((graph(*inputs) - exact).abs().max()) < 100 * torch.finfo(torch.float32).eps * 20
    turned = x.t().contiguous()
    graph = faster_products(capture(lambda: torch.mm(turned.t(), w), [turned, w]))
    assert torch.ops.mkldnn._linear_pointwise.default not in _targets(graph)
