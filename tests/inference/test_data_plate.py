"""The minibatch bound equals the full bound in expectation."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from evidentia.inference.training.data_plate import data_plate, minibatches


def elbo_of(rows: torch.Tensor, y: torch.Tensor, size: int) -> float:
    def model(batch):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with data_plate(size, len(batch)):
            pyro.sample("obs", dist.Normal(z, 1.0), obs=batch)

    def guide(batch):
        pyro.sample("z", dist.Normal(0.3, 0.2))

    return -Trace_ELBO().loss(model, guide, y[rows])


@pytest.mark.statistical
def test_minibatch_bound_is_unbiased() -> None:
    y = torch.randn(12)
    full = torch.tensor([elbo_of(torch.arange(12), y, 12) for _ in range(400)])
    batch = torch.tensor([elbo_of(rows, y, 12) for _ in range(200) for rows in minibatches(12, 4)])
    error = (full.var() / len(full) + batch.var() / len(batch)).sqrt()
    assert abs(float((batch.mean() - full.mean()) / error)) < 4.5


def test_batches_of_one_epoch_average_to_the_full_bound() -> None:
    y = torch.randn(12)

    def bound(rows: torch.Tensor) -> float:
        torch.manual_seed(3)
        return elbo_of(rows, y, 12)

    mean = sum(bound(rows) for rows in torch.arange(12).reshape(3, 4)) / 3
    assert mean == pytest.approx(bound(torch.arange(12)), rel=1e-5)


def test_minibatches_are_a_partition_without_the_short_end() -> None:
    rows = list(minibatches(10, 4))
    assert [len(r) for r in rows] == [4, 4]
    assert len(set(torch.cat(rows).tolist())) == 8


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="subsample_size=5, size=4"), data_plate(4, 5):
        pass
    with pytest.raises(ValueError, match="batch_size"):
        list(minibatches(3, 4))
