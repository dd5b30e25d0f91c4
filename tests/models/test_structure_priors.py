"""Masses of structure priors on the vertices."""

import itertools

import pytest
import torch

from evidentia.models.structure.domains import DOMAINS, Domain
from evidentia.models.structure.priors import (
    Bernoulli,
    Beta,
    BetaBinomial,
    Categorical,
    Dirichlet,
    GumbelSoftmax,
    LogisticNormal,
    LogitNormal,
    RelaxedBernoulli,
)

PRIORS = [
    GumbelSoftmax(0.2, [3.0, 1.0, 0.5]),
    Dirichlet(2.0, [3.0, 1.0, 0.5]),
    LogisticNormal(0.2, [0.5, 0.0, -1.0], [1.0, 2.0, 0.3]),
    Categorical([0.0, 1.0, 3.0]),
    Bernoulli([0.0, 0.3, 1.0]),
    BetaBinomial(2.0, 0.5),
    RelaxedBernoulli(0.2, [0.1, 0.5, 0.9]),
    Beta(0.2, [1.0, 2.0, 3.0], 2.0),
    LogitNormal(0.2, [0.0, 1.0, -1.0], 2.0),
]


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_mass_is_normalised_and_zero_off_the_vertices(prior) -> None:
    domain = Domain(prior.domain)
    vertices = domain.vertices(torch.arange(domain.num_vertices(3)), 3).double()
    assert abs(float(prior.log_mass(vertices).exp().sum()) - 1) < 1e-12
    assert torch.isneginf(prior.log_mass(torch.full((3,), 1 / 3)))
    assert not torch.isnan(prior.log_mass(vertices)).any()
    mapped = torch.vmap(prior.log_mass)(vertices)
    torch.testing.assert_close(mapped, prior.log_mass(vertices))
    if not domain.is_cube:
        assert torch.isneginf(prior.log_mass(torch.tensor([1.0, 1.0, 0.0])))
    prior.check("edge", 3)
    assert type(prior).__name__ in repr(prior)


def test_masses_of_the_simplex() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    expected = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64) / 4.5
    for prior in (GumbelSoftmax(0.1, [3, 1, 0.5]), Dirichlet(0.1, [3, 1, 0.5]), Categorical([3, 1, 0.5])):
        torch.testing.assert_close(prior.log_mass(eye).exp(), expected)


def test_beta_binomial_is_uniform_over_sizes() -> None:
    prior = BetaBinomial()
    gates = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)), dtype=torch.float64)
    mass = prior.log_mass(gates).exp()
    by_size = torch.zeros(6, dtype=torch.float64).index_add(0, gates.sum(-1).long(), mass)
    torch.testing.assert_close(by_size, torch.full((6,), 1 / 6, dtype=torch.float64))


def test_vertices_of_a_domain() -> None:
    for name in DOMAINS:
        domain = Domain(name)
        count = domain.num_vertices(3)
        rows = domain.vertices(torch.arange(count), 3)
        assert [tuple(r) for r in rows.tolist()] == [domain.vertex(i, 3) for i in range(count)]
        assert [domain.index(domain.vertex(i, 3)) for i in range(count)] == list(range(count))
        assert domain.is_vertex(rows).all()
    assert Domain("simplex").index((1, 1, 0)) is None
    assert Domain("simplex") == Domain("simplex") != Domain("cube")
    assert len({Domain("cube"), Domain("cube")}) == 1
    assert repr(Domain("cube")) == "Domain('cube')"
