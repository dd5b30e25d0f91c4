"""Rewrites keep every bit: the same numbers, draws, writes and separate results."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

from evidentia.inference.compile.capture import capture
from evidentia.inference.compile.simplify import simplify


def pieces(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def same_bits(function, inputs, *, bindings=True):
    """Record, rewrite, and compare the results of both at one seed; twice, since memory is reused."""
    graph, plain = capture(function, inputs), capture(function, inputs)
    simplify(graph, bindings=bindings)
    for _ in range(2):
        found = []
        for one in (plain, graph):
            torch.manual_seed(0)
            copies = [tensor.detach().clone() for tensor in inputs]
            results = one(*copies)
            found.append([*(results if isinstance(results, tuple) else (results,)), *copies])
        for left, right in zip(*found, strict=True):
            assert torch.equal(left, right)
    return graph


def regression(x, y):
    scale = pyro.sample("scale", dist.HalfCauchy(torch.ones(3)).to_event(1))
    weight = pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Bernoulli(logits=(x * (scale * weight)).sum(-1)), obs=y)


@pytest.mark.parametrize("bindings", [True, False])
def test_a_whole_step_keeps_every_bit_with_fewer_operations(bindings):
    x = torch.randn(20, 3)
    y = (x[:, 0] > 0).float()
    guide = AutoNormal(regression)
    guide(x, y)
    found = list(guide.parameters())

    def step():
        q = poutine.trace(guide).get_trace(x, y)
        p = poutine.trace(poutine.replay(regression, trace=q)).get_trace(x, y)
        loss = q.log_prob_sum() - p.log_prob_sum()
        return loss.detach(), *torch.autograd.grad(loss, found)

    with pyro.validation_enabled(False):
        graph = same_bits(step, [*found, x, y], bindings=bindings)
        assert len(pieces(graph)) < 0.8 * len(pieces(capture(step, [*found, x, y])))


def test_an_expand_is_computed_on_its_small_side_and_equal_terms_once():
    scale, x = torch.rand(4) + 0.5, torch.randn(3, 4)

    def step():
        wide = scale.expand(3, 4)
        return ((x / wide.log() + wide.log() * x * torch.ones(3, 4)).sum(),)

    graph = same_bits(step, [scale, x])
    assert len([name for name in pieces(graph) if "log" in name]) == 1
    assert not [name for name in pieces(graph) if "expand" in name]


def test_memory_is_reused_only_when_nobody_reads_it_again():
    x = torch.randn(5)

    def step():
        a = x.exp()
        b = a * 3.0
        c = (a + b).tanh()  # b is read again below, a is not
        d = c - b
        e = x * 2.0  # an input is never written over
        return d, e.neg() + e, e.view(1, 5)

    graph = same_bits(step, [x])
    assert [name for name in pieces(graph) if "tanh_" in name]


def test_a_result_does_not_become_an_input_or_another_result():
    x = torch.randn(5)
    graph = same_bits(lambda: (x * 1, x - 0, x.exp(), x.exp()), [x])
    results = graph(x)
    assert len({tensor.data_ptr() for tensor in (x, *results)}) == 5


def test_what_is_read_before_and_after_a_write_stays_two_numbers():
    x, kept = torch.randn(5), torch.zeros(5)

    def step():
        before, view = kept * 1, kept.view(5)
        first = kept.exp() * x
        view.add_(x)
        return before + first, kept.exp() * x, (kept - 0) * before

    same_bits(step, [x, kept])


def test_minus_zero_survives():
    x = torch.tensor([-0.0, 1.0])
    graph = same_bits(lambda: (1.0 / ((x + 0.0) * 1), 1.0 / ((x - 0.0) * 1)), [x])
    assert graph(x)[0].tolist() == [float("inf"), 1.0]
    assert graph(x)[1].tolist() == [float("-inf"), 1.0]


def test_draws_are_not_merged_and_other_types_are_promoted():
    x, whole = torch.randn(4), torch.arange(4)
    graph = same_bits(lambda: (torch.randn(4) - torch.randn(4) + x, whole * 1.0, whole / 1), [x, whole])
    assert graph(x, whole)[1].dtype == torch.get_default_dtype()
