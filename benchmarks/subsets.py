"""Exact scoring of all 1,024 subsets of the diabetes data, beside a Python loop of single Cholesky fits."""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from benchmarks.ratio import Ratio, measure
from evidentia.models import NormalPrior, SubsetRegression
from evidentia.studies.harness.data.datasets import diabetes

NOISE = 0.7
CALLS = 20  # calls of the fast side per call of the slow one


def one_by_one(x: Tensor, y: Tensor) -> Tensor:
    """Log evidence of every subset under N(0, 1) coefficients: one Cholesky factor per subset."""
    gram, moment, energy, rows = x.T @ x, x.T @ y, y @ y, len(y)
    constant = -0.5 * rows * torch.log(torch.tensor(2 * torch.pi * NOISE**2, dtype=x.dtype))
    values = []
    for bits in product((0, 1), repeat=x.shape[1]):
        active = [place for place, bit in enumerate(bits[::-1]) if bit]
        fit = x.new_zeros(())
        if active:
            part = gram[active][:, active] / NOISE**2 + torch.eye(len(active), dtype=x.dtype)
            factor = torch.linalg.cholesky(part)
            half = torch.linalg.solve_triangular(factor, moment[active, None] / NOISE**2, upper=False)
            fit = 0.5 * half.square().sum() - factor.diagonal().log().sum()
        values.append(constant - 0.5 * energy / NOISE**2 + fit)
    return torch.stack(values)


def ratios() -> Iterator[Ratio]:
    """Yield the one ratio; both sides give the same numbers, which is checked."""
    data = diabetes()
    model = SubsetRegression(data.names, NormalPrior(1.0, noise_scale=NOISE))

    def ours() -> Tensor:
        values = [model.conjugate(data.x, data.y).log_evidence_all() for _ in range(CALLS)]
        return values[0]

    if not torch.allclose(ours(), one_by_one(data.x, data.y), rtol=1e-9, atol=0):
        raise RuntimeError("the two sides disagree")
    yield measure(
        "1,024 subsets scored exactly",
        ours=(f"the elimination tree, {CALLS} times", ours),
        peer=("a loop of single Cholesky fits", lambda: one_by_one(data.x, data.y)),
        target=100,
        peer_share=1 / CALLS,
    )
