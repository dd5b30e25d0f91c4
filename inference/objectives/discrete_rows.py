"""Which values an estimator needs f at, laid out as rows, and the gradient it makes of f's values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evidentia.inference.gradients.antithetic import AntitheticPair, antithetic_pair, arm, disarm
from evidentia.inference.gradients.control_variates import controlled_gradient, relaxed_bits
from evidentia.inference.gradients.local_expectation import (
    local_expectation,
    local_expectation_categorical,
    neighbours,
    neighbours_categorical,
)
from evidentia.inference.gradients.score_function import one_hot, reinforce, rloo
from evidentia.inference.gradients.straight_through import (
    rao_blackwell_straight_through,
    straight_through,
    straight_through_gumbel,
)
from evidentia.inference.objectives.discrete_control import Baseline, ControlVariate
from evidentia.inference.objectives.discrete_sites import Block

__all__ = ["BITS_ONLY", "SOFT", "Plan", "flat_logits", "make_plan"]

BITS_ONLY = ("arm", "disarm", "rebar", "relax")
SOFT = ("rebar", "st", "st_gumbel", "rao_blackwell_st")  # the model sees values between 0 and 1, or a path

Gradients = tuple[list[Tensor], Tensor | None]


class Plan(NamedTuple):
    """The rows of one step.

    Attributes:
        rows: for each block (S, *plates, W[, C]).
        num_draws: the first so many rows are draws from the guide.
        gradients: from f (S, *plates) to one gradient for each block, shaped like its logits, and the
            tensor whose mean square the control variate or baseline is trained on, or None. None instead of
            a function when the rows carry the gradient themselves.

    References:
        none; bookkeeping.
    """

    rows: list[Tensor]
    num_draws: int
    gradients: Callable[[Tensor], Gradients] | None


def make_plan(
    estimator: str,
    blocks: Sequence[Block],
    num_particles: int,
    *,
    temperature: float,
    num_redraws: int,
    control: ControlVariate | Baseline | None,
) -> Plan:
    """Draw the rows of an estimator.

    Args:
        estimator: name.
        blocks: of the guide; only bits for those of `BITS_ONLY`.
        num_particles: n draws, or pairs of them.
        temperature: of the straight-through Gumbel estimators.
        num_redraws: of "rao_blackwell_st".
        control: of "rebar", "relax" and "nvil"; None evaluates without a gradient.

    References:
        none; bookkeeping.
    """
    if estimator in ("arm", "disarm"):
        return _antithetic(estimator, blocks, num_particles)
    if isinstance(control, ControlVariate):
        return _controlled(estimator, blocks, num_particles, control)
    if estimator == "local" and torch.is_grad_enabled():  # the value alone needs no neighbours
        return _local(blocks, num_particles)
    if estimator.startswith(("st", "rao")):
        return _through(estimator, blocks, num_particles, temperature, num_redraws)
    rows = [_draw(block, num_particles) for block in blocks]
    rule = rloo if estimator == "rloo" else reinforce

    def gradients(f: Tensor) -> Gradients:
        error = None
        if isinstance(control, Baseline):
            error = f - control(flat_logits(blocks))
            f = error.detach()
        pairs = zip(blocks, rows, strict=True)
        return [rule(f, row, block.logits, categorical=block.categorical) for block, row in pairs], error

    return Plan(rows, num_particles, gradients)


def flat_logits(blocks: Sequence[Block]) -> Tensor:
    """The logits of all blocks side by side, (*plates, W), choices flattened.

    Args:
        blocks: of the guide.

    References:
        none; bookkeeping.
    """
    parts = [block.logits.flatten(-2) if block.categorical else block.logits for block in blocks]
    return torch.cat(parts, -1)


def _draw(block: Block, num: int) -> Tensor:
    logits = block.logits.detach()
    if not block.categorical:
        return torch.bernoulli(logits.sigmoid().expand(num, *logits.shape))
    law = torch.distributions.Categorical(logits=logits, validate_args=False)
    return one_hot(law.sample((num,)), logits.shape[-1], logits.dtype)


def _joint(blocks: Sequence[Block]) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
    """The bits of all blocks side by side, and the way back."""
    widths = [block.logits.shape[-1] for block in blocks]
    return torch.cat([block.logits.detach() for block in blocks], -1), lambda x: list(x.split(widths, -1))


def _antithetic(estimator: str, blocks: Sequence[Block], num: int) -> Plan:
    logits, split = _joint(blocks)
    pair: AntitheticPair = antithetic_pair(logits, num)

    def gradients(f: Tensor) -> Gradients:
        first, second = f[:num], f[num:]
        g = arm(first, second, pair) if estimator == "arm" else disarm(first, second, pair, logits)
        return split(g), None

    return Plan(split(torch.cat([pair.bits, pair.opposite])), 2 * num, gradients)


def _controlled(estimator: str, blocks: Sequence[Block], num: int, control: ControlVariate) -> Plan:
    logits, split = _joint(blocks)
    leaf = logits.requires_grad_()
    bits, free, tied = relaxed_bits(leaf, num)
    soft = [control.soften(torch.cat([free, tied]))] if estimator == "rebar" else []
    rows = torch.cat([bits, *soft])

    def gradients(f: Tensor) -> Gradients:
        if estimator == "rebar":
            controls, scale = f[num:], control.scale
        else:
            controls, scale = control.network(torch.cat([free, tied]), leaf), control.scale
        g = controlled_gradient(f[:num], controls[:num], controls[num:], bits, leaf, scale, create_graph=True)
        return split(g.detach()), g

    return Plan(split(rows), num, gradients)


def _local(blocks: Sequence[Block], num: int) -> Plan:
    draws = [_draw(block, num) for block in blocks]
    moved = [
        (neighbours_categorical if block.categorical else neighbours)(draw)[1:]
        for block, draw in zip(blocks, draws, strict=True)
    ]
    counts = [len(m) for m in moved]
    rows = []
    for k, (draw, own) in enumerate(zip(draws, moved, strict=True)):
        before, after = 1 + sum(counts[:k]), sum(counts[k + 1 :])
        still = draw[None].expand(before, *draw.shape), draw[None].expand(after, *draw.shape)
        rows.append(torch.cat([still[0], own, still[1]]).flatten(0, 1))

    def gradients(f: Tensor) -> Gradients:
        f = f.reshape(1 + sum(counts), num, *f.shape[1:])
        result = []
        for k, (block, draw) in enumerate(zip(blocks, draws, strict=True)):
            start = 1 + sum(counts[:k])
            values = torch.cat([f[:1], f[start : start + counts[k]]])
            rule = local_expectation_categorical if block.categorical else local_expectation
            result.append(rule(values, draw, block.logits).mean(0))
        return result, None

    return Plan(rows, num, gradients)


def _through(estimator: str, blocks: Sequence[Block], num: int, temperature: float, redraws: int) -> Plan:
    def one(block: Block) -> Tensor:
        if estimator == "st":
            return straight_through(block.logits, num, categorical=block.categorical)
        if estimator == "st_gumbel":
            return straight_through_gumbel(block.logits, num, temperature, categorical=block.categorical)
        return rao_blackwell_straight_through(
            block.logits, num, temperature, redraws, categorical=block.categorical
        )

    return Plan([one(block) for block in blocks], num, None)
