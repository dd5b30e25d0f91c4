"""Data at the edge: rows that cannot be conditioned on, responses of other shapes, data of other problems."""

import math

import pytest
import torch

from evidentia.inference.structure.enumerate import enumerate_structures
from evidentia.inference.structure.gibbs import structure_gibbs
from evidentia.models.likelihood import Gaussian
from evidentia.models.regression import GPrior, NormalPrior, SubsetRegression
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(20, 2, dtype=torch.float64)
    return x, x[:, 0] + 0.3 * torch.randn(20, dtype=torch.float64)


def network():
    family = Family(2).edge(
        "x", "f", ops={"flat": Constant(), "line": GLM(bias=True)}, domain="simplex_vertex"
    )
    return family.model(likelihood=Gaussian(0.5))


@pytest.mark.parametrize("rows", [0, -1, 20, 2.5, True, "5"])
def test_conditional_rows_are_checked_at_once(data, rows) -> None:
    message = r"conditional_rows: expected an integer from 1 to 19 \(there are 20 rows\), got .* Fix: e.g. 10"
    for model, options in ((SubsetRegression("ab"), {}), (network(), {"evidence": "elbo", "num_steps": 1})):
        with pytest.raises(ValueError, match=message):
            enumerate_structures(model, *data, conditional_rows=rows, **options)


def test_a_sorted_response_leaves_the_table_whole(data) -> None:
    x, y = data[0], torch.cat([torch.ones(10, dtype=torch.float64), data[1][10:]])
    table = enumerate_structures(SubsetRegression("ab"), x, y).table()
    assert table["conditional_log_evidence"].isna().all()
    assert table["elpd_loo"].notna().all()
    with pytest.raises(
        ValueError, match=r"conditional_rows: rows=10, but .* is constant .* Fix: condition on"
    ):
        enumerate_structures(SubsetRegression("ab"), x, y, conditional_rows=10)
    with pytest.raises(ValueError, match=r"conditional_rows: rows=1, but .* 0 degrees of freedom"):
        structure_gibbs(
            SubsetRegression("ab"), x, y, num_sweeps=2, warmup_sweeps=0, num_chains=1, conditional_rows=1
        )
    proper = SubsetRegression("ab", GPrior(noise_shape=1.0, noise_rate=1.0))
    assert enumerate_structures(proper, x, y).table()["conditional_log_evidence"].notna().all()


def test_a_constant_response_is_named(data) -> None:
    with pytest.raises(ValueError, match="y is constant in all 20 rows"):
        enumerate_structures(SubsetRegression("ab"), data[0], torch.full((20,), 0.1))
    posterior = enumerate_structures(SubsetRegression("ab", NormalPrior()), data[0], torch.ones(20))
    assert math.isfinite(posterior.table()["log_evidence"][0])


def test_a_column_for_a_response_is_refused_everywhere_in_the_same_words(data) -> None:
    x, y = data[0], data[1][:, None]
    subset, family = SubsetRegression("ab", NormalPrior()), network()
    posterior = enumerate_structures(subset, *data)
    exported = posterior.export()
    calls = [
        lambda: subset(x, y),
        lambda: subset.conjugate(x, y),
        lambda: family(x, y),
        lambda: exported.pair.model(x, y),
        lambda: exported.retrain(x, y),
        lambda: posterior.to_idata(x, y),
        lambda: structure_gibbs(subset, x, y),
        *(lambda m=m: enumerate_structures(m, x, y) for m in (subset, family)),
        lambda: enumerate_structures(family, x, y, evidence="elbo", num_steps=1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"'y' has shape \(20, 1\), expected \(20,\) .* Fix: flatten"):
            call()
