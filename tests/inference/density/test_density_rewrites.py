"""Each rewrite of a graph alone: the values of the unmodified graph, bit for bit, and it does something."""

import pytest
import torch

from evidentia.inference.density import rewrites
from evidentia.inference.density.pieces import cut, leapfrog_graph, value_graph, varying_nodes
from evidentia.inference.density.recorder import RecordError, record
from evidentia.inference.density.solves import IllConditionedError, replace_solves, triangular_inverse

F64 = torch.float64


def count(graph):
    return len([node for node in graph.graph.nodes if node.op == "call_function"])


def same(graph, other, *inputs):
    copies = [[tensor.clone() for tensor in inputs] for _ in range(2)]
    for one, two in zip(graph(*copies[0]), other(*copies[1]), strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)


CASES = {
    "make_functional": lambda x: (x.exp().masked_fill_(x > 0.1, 3.0) + x,),
    "drop_views": lambda x: (x.view(3, 2).expand(3, 2).permute(0, 1)[0:3].detach() * 2,),
    "fold_constants": lambda x: (x * (torch.tensor(2.0, dtype=F64).log() + 1.0),),
    "inline_scalars": lambda x: (torch.tensor(2.5, dtype=F64) * x + torch.tensor(0.1, dtype=F64),),
    "shorten_sums": lambda x: (x.view(3, 2, 1).sum(-1),),
    "free_fills": lambda x: (x + torch.full_like(x, 0.3) + x.new_ones(2) + torch.zeros_like(x),),
    "drop_neutral": lambda x: ((x + 0.0) * 1 + x.pow(1.0) / 1.0 - 0.0,),
    "merge_equal": lambda x: (x.exp() + x.exp() * x.exp(),),
    "drop_dead": lambda x: (x + 1, x.exp())[:1],
}


@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_keeps_values(name):
    plain = record(CASES[name], [torch.randn(3, 2, dtype=F64)])
    graph = rewrites.copy_graph(plain)
    if name == "inline_scalars":
        rewrites.drop_views(graph)  # a constant is first a view of itself
    getattr(rewrites, name)(graph)
    rewrites.drop_dead(graph)
    graph.graph.lint()
    graph.recompile()
    for seed in range(3):
        torch.manual_seed(seed)
        same(plain, graph, torch.randn(3, 2, dtype=F64))
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    if name == "make_functional":
        assert not any(target._schema.is_mutable for target in targets)
    elif name == "inline_scalars":
        assert not [node for node in graph.graph.nodes if node.op == "get_attr"]
    elif name == "shorten_sums":
        assert torch.ops.aten.sum.dim_IntList not in targets
    elif name == "free_fills":
        fills = [node for node in graph.graph.nodes if node.target is torch.ops.aten.full.default]
        assert len(fills) == 3
        assert not any(node.all_input_nodes for node in fills)
    else:
        assert count(graph) < count(plain)


def test_rewrites_keep_what_is_not_neutral():
    def function(x):
        single = x.float()
        return (single + torch.zeros_like(x), x * torch.ones(3, 1, 2, dtype=F64), x.new_zeros(2) * x, 1.0 / x)

    plain = record(function, [torch.randn(3, 2, dtype=F64)])
    graph = rewrites.rewrite(rewrites.copy_graph(plain))
    same(plain, graph, torch.tensor([[0.0, 3.0], [1.0, 2.0], [-0.0, 4.0]], dtype=F64))
    assert graph(torch.full((3, 2), float("inf"), dtype=F64))[2].isnan().all()


def test_products_are_turned():
    def function(x, data):
        return (torch.func.vmap(lambda row: (data @ row).exp())(x), (data @ x.mT).mT, x.mT.mT * 2)

    x, data = torch.randn(5, 3, dtype=F64), torch.randn(4, 3, dtype=F64)
    plain = record(function, [x, data])
    graph = rewrites.copy_graph(plain)
    rewrites.turn_products(graph)
    graph.graph.lint()
    graph.recompile()
    torch.testing.assert_close(graph(x, data), plain(x, data), rtol=1e-14, atol=1e-15)
    assert graph(x, data)[1].is_contiguous()


def test_writes_are_kept_in_order():
    def function(x):
        y = x * 1.0
        z = y + 0.0
        y.add_(1.0)
        return (y + z, z)

    x = torch.randn(3, dtype=F64)
    plain = record(function, [x])
    same(plain, rewrites.rewrite(rewrites.copy_graph(plain)), x)


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("columns", [1, 3])
def test_solves_become_products(upper, left, columns):
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(4, 4, generator=generator, dtype=F64) + 4 * torch.eye(4, dtype=F64)
    matrix = matrix.triu() if upper else matrix.tril()

    def function(x, data):
        right = x if left else x.mT
        return (torch.linalg.solve_triangular(data[None], right, upper=upper, left=left).sin(),)

    x = torch.randn(5, 4, columns, generator=generator, dtype=F64)
    plain = record(function, [x, matrix])
    graph = rewrites.copy_graph(plain)
    assert replace_solves(graph, varying_nodes(graph, 1)) == 1
    pieces = cut(rewrites.rewrite(graph), 1)
    torch.testing.assert_close(
        pieces.main(x, *pieces.prelude(matrix)), plain(x, matrix), rtol=1e-12, atol=1e-12
    )
    assert not any(
        node.target is torch.ops.aten.linalg_solve_triangular.default for node in pieces.main.graph.nodes
    )


def test_solves_with_a_matrix_that_varies_are_kept():
    graph = record(lambda x: (torch.linalg.solve_triangular(x, x, upper=True),), [torch.eye(2)])
    assert replace_solves(graph, varying_nodes(graph, 1)) == 0


def test_the_inverse_is_right_and_refuses_bad_matrices():
    matrix = torch.tensor([[2.0, 7.0], [1.0, 0.5]])
    torch.testing.assert_close(triangular_inverse(matrix, False, False), torch.inverse(matrix.tril()))
    unit = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(triangular_inverse(matrix, False, True), torch.inverse(unit))
    with pytest.raises(IllConditionedError):
        triangular_inverse(torch.diag(torch.tensor([1.0, 1e-7])), False, False)


def test_a_cut_runs_data_once():
    def function(x, data):
        return ((x * data.exp()).sum() + torch.ones(3).sum(), data + 1)

    x, data = torch.randn(3), torch.randn(3)
    plain = record(function, [x, data])
    pieces = cut(rewrites.rewrite(rewrites.copy_graph(plain)), 1)
    fixed = pieces.prelude(data)
    same(pieces.main, lambda x, *fixed: plain(x, data), x, *fixed)
    names = {str(node.target) for node in pieces.main.graph.nodes}
    assert "aten.exp.default" not in names


def test_value_and_leapfrog_grow_out_of_one_graph():
    def function(x, beta):
        value = -0.5 * (x**2).sum(-1) * beta
        return value, -x * beta[:, None], value / 2

    x, p = torch.randn(3, 2), torch.randn(3, 2)
    beta = torch.tensor([1.0, 0.5, 0.2])
    graph = record(function, [x, beta])
    same(value_graph(graph), lambda x, beta: function(x, beta)[::2], x, beta)
    step, covariance = torch.tensor(0.1), torch.tensor([1.0, 2.0])
    new, end, slope, _, _ = leapfrog_graph(graph, 2, False)(x, p, -x * beta[:, None], step, covariance, beta)
    middle = p - 0.05 * x * beta[:, None]
    torch.testing.assert_close(new, x + 0.1 * middle * covariance)
    torch.testing.assert_close(end, middle - 0.05 * new * beta[:, None])
    torch.testing.assert_close(slope, -new * beta[:, None])


def test_what_cannot_be_recorded():
    shared = torch.zeros(2)
    cases = {
        "a number is read": lambda x: (x * float(x.sum()),),
        "a shape depends": lambda x: (x[x > 0],),
        "random operation": lambda x: (x + torch.rand(2),),
        "lives on after the call": lambda x: (shared.view(2).add_(x),),
    }
    for match, function in cases.items():
        with pytest.raises(RecordError, match=match):
            record(function, [torch.ones(2)])


def test_a_recording_follows_its_inputs_through_gradients_and_maps():
    def function(x):
        leaf = x.detach().requires_grad_()
        value = torch.func.vmap(lambda row: (row.exp().sqrt() * row[0]).sum() + torch.linalg.norm(row))(leaf)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    graph = record(function, [torch.randn(3, 2)])
    for seed in range(3):
        torch.manual_seed(seed)
        same(graph, function, torch.randn(3, 2))


def test_a_failed_factorisation_is_nan_in_its_own_row():
    def function(x):
        return (torch.func.vmap(torch.linalg.cholesky)(x),)

    good = 2 * torch.eye(2).expand(2, 2, 2).contiguous()
    graph = record(function, [good])
    bad = torch.stack([good[0], -good[1]])
    assert graph(bad)[0].isnan().all(-1).all(-1).tolist() == [False, True]
    assert torch.equal(graph(good)[0], function(good)[0])
