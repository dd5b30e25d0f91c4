"""Bridge sampling: exact evidences, honest errors over repeats, and guards that speak when they must."""

import math

import evidence_toys
import pytest
import torch

from evidentia.inference.density.evaluation import target_of, tempered_of
from evidentia.inference.evidence.bridge import bridge, bridge_groups
from evidentia.inference.evidence.bridge_equation import solve_bridge
from evidentia.inference.evidence.warp import fit_frame, values_of


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def standard_normal(x):
    return -0.5 * x.square().sum(-1)


@pytest.mark.parametrize("proposal", ["warp", "normal"])
@pytest.mark.parametrize("name", list(evidence_toys.TOYS))
def test_exact_evidences(name, proposal):
    toy = evidence_toys.TOYS[name]()
    found = bridge(toy.density, toy.chains(16, 400, 0), proposal=proposal, generator=seeded())
    tolerance = 4 * found.standard_error if name == "bimodal" else 0.02
    assert abs(found.value - toy.log_evidence) < tolerance
    assert abs(found.value - toy.log_evidence) < 4.5 * found.standard_error
    assert found.diagnostics["warnings"] == ()
    assert found.kind == "consistent estimate"


def test_subsets_of_the_regression_are_ranked_exactly():
    x, y = evidence_toys.diabetes()
    subsets = [[2], [2, 8], [1, 2, 3, 6, 8], [1, 2, 3, 4, 5, 8], list(range(10))]
    noise, found, exact = 0.7, [], []
    for subset in subsets:
        covariance = x[:, subset] @ x[:, subset].T + noise**2 * torch.eye(len(y))
        marginal = torch.distributions.MultivariateNormal(y.new_zeros(len(y)), covariance)
        exact.append(float(marginal.log_prob(y)))
        toy = evidence_toys.linear_gaussian(x[:, subset], y, noise, exact[-1])
        found.append(bridge(toy.density, toy.chains(8, 100, len(subset)), generator=seeded()).value)
    assert found == pytest.approx(exact, abs=0.02)
    probability = torch.softmax(torch.tensor(found), 0)
    torch.testing.assert_close(probability, torch.softmax(torch.tensor(exact), 0), rtol=0.05, atol=1e-4)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["regression", "eight schools", "bimodal"])
@pytest.mark.parametrize(("length", "stay"), [(120, 0.0), (400, 0.8)])
def test_errors_over_repeats(name, length, stay):
    toy, repeats, chains = evidence_toys.TOYS[name](), 100, 4
    draws = toy.chains(repeats * chains, length, 1, stay).reshape(repeats, chains, length, -1)
    both = bridge_groups(values_of(toy.density), draws, generator=seeded())
    for found in (both.warp, both.normal):
        z = (found.value - toy.log_evidence) / found.standard_error
        assert abs(z.mean()) < 0.5
        assert 0.7 < z.std() < 1.4
        assert 0.88 <= (z.abs() < 1.96).double().mean() <= 0.99


def test_correlated_draws_count_for_less():
    toy = evidence_toys.regression()
    draws = toy.chains(32, 1600, 0, stay=0.8)
    found = bridge(toy.density, draws, generator=seeded()).diagnostics
    assert found["num_draws"] == 25_600
    for name in ("ess", "ess_f1"):  # the autocorrelation time is 1.8 / 0.2 = 9, its estimate has an sd of 8 %
        assert found[name] == pytest.approx(25_600 / 9, rel=0.35)


def test_warp_is_better_on_a_skewed_posterior():
    toy = evidence_toys.schools()
    found = bridge(toy.density, toy.chains(32, 400, 2), generator=seeded())
    assert found.standard_error < 0.8 * found.diagnostics["other"][1]


def test_bridge_equation_solves_its_own_equation():
    random = seeded()
    l1 = 3 + torch.randn(2, 300, 1, generator=random, dtype=torch.float64)
    l2 = 1 + torch.randn(500, 1, generator=random, dtype=torch.float64)
    found = solve_bridge(l1, l2)
    # The optimal bridge is the intercept of a logistic regression of the two samples.
    s1, s2 = found.ess / (found.ess + 500), 500 / (found.ess + 500)
    odds = (s1 / s2).log() - found.value
    score = s1 * torch.sigmoid(-(l1 + odds)).mean() - s2 * torch.sigmoid(l2 + odds).mean()
    assert score.abs().item() < 1e-9
    assert found.iterations < 100


def test_samples_without_overlap_do_not_converge():
    random = seeded()
    l1 = 30 + torch.randn(2, 50, 1, generator=random, dtype=torch.float64)
    l2 = -30 + torch.randn(100, 1, generator=random, dtype=torch.float64)
    found = solve_bridge(l1, l2)
    assert not found.converged
    assert found.iterations == 1000


def shell(x):  # a thin shell in 30 dimensions: its normal proposal fills the ball with nothing
    return -0.5 * ((x.square().sum(-1).sqrt() - 20) / 0.0003).square()


def test_little_overlap_is_reported():
    random = seeded()
    direction = torch.randn(16, 200, 30, generator=random, dtype=torch.float64)
    radius = 20 + 0.0003 * torch.randn(16, 200, 1, generator=random, dtype=torch.float64)
    draws = radius * direction / direction.norm(dim=-1, keepdim=True)
    found = bridge(target_of(shell), draws, generator=random)
    assert any("overlap" in text for text in found.diagnostics["warnings"])


def test_draws_of_another_density_are_reported():
    draws = 1 + torch.randn(16, 200, 2, generator=seeded(), dtype=torch.float64)
    found = bridge(target_of(standard_normal), draws, generator=seeded())
    assert any("normal and warp-III" in text for text in found.diagnostics["warnings"])


def test_chains_that_have_not_mixed_enlarge_the_error():
    toy = evidence_toys.bimodal()
    draws = toy.chains(32, 400, 0)
    draws[..., 0] = draws[..., 0].abs() * torch.where(torch.arange(32) < 16, 1.0, -1.0)[:, None]
    good = bridge(toy.density, toy.chains(32, 400, 0), generator=seeded())
    stuck = bridge(toy.density, draws, generator=seeded())
    assert good.diagnostics["warnings"] == ()
    assert any("not mixed" in text for text in stuck.diagnostics["warnings"])
    assert stuck.standard_error > 5 * good.standard_error


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["gamma-Poisson", "regression", "bimodal"])
def test_guards_are_quiet_on_good_draws(name):
    toy = evidence_toys.TOYS[name]()
    runs = [bridge(toy.density, toy.chains(32, 60, seed, 0.3), generator=seeded(seed)) for seed in range(16)]
    assert sum(bool(run.diagnostics["warnings"]) for run in runs) <= 2


def test_groups_agree_with_the_formula():
    toy = evidence_toys.schools()
    found = bridge(toy.density, toy.chains(64, 200, 0), generator=seeded())
    assert len(found.diagnostics["group_values"]) == 8
    assert 0.4 < found.diagnostics["group_standard_error"] / found.standard_error < 2
    few = bridge(toy.density, toy.chains(4, 200, 0), generator=seeded())
    assert "group_values" not in few.diagnostics


def test_a_density_without_support_everywhere():
    density = target_of(lambda x: torch.where(x > -0.5, -x, -math.inf).sum(-1))
    draws = torch.empty(16, 200, 1, dtype=torch.float64).exponential_(generator=seeded()) - 0.5
    found = bridge(density, draws, proposal="normal", generator=seeded())
    assert abs(found.value - 0.5) < 4.5 * found.standard_error
    density = target_of(lambda x: torch.where(x > -0.5, -x, math.nan).sum(-1))
    found = bridge(density, draws, proposal="normal", generator=seeded())
    assert any("NaN at" in text for text in found.diagnostics["warnings"])


def test_single_precision_one_chain_and_reproducibility():
    density = tempered_of(standard_normal, lambda x: 0 * x.sum(-1))
    draws = torch.randn(800, 3, generator=seeded())
    found = bridge(density, draws, generator=seeded())
    assert abs(found.value - 1.5 * math.log(2 * math.pi)) < 4.5 * found.standard_error
    assert found.value == bridge(density, draws[None], generator=seeded()).value
    assert found.value != bridge(density, draws, generator=seeded(1)).value
    assert bridge(density, draws, num_proposals=50, generator=seeded()).diagnostics["num_proposals"] == 50


def test_frame_is_an_affine_map():
    draws = torch.randn(2, 50, 3, generator=seeded(), dtype=torch.float64)
    frame = fit_frame(draws)
    u = frame.inwards(draws)
    torch.testing.assert_close(frame.outwards(u), draws)
    torch.testing.assert_close(u.mT @ u / 49, torch.eye(3).double().expand(2, 3, 3))
    jacobian = torch.autograd.functional.jacobian(lambda v: frame.outwards(v)[0, 0], u)[:, 0, 0]
    assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(frame.log_volume[0].item())


@pytest.mark.parametrize(
    ("draws", "options", "message"),
    [
        (torch.randn(4, 50, 2), {"proposal": "t"}, "expected proposal 'warp' or 'normal', got 't'"),
        (torch.randn(50), {}, r"expected \(chains, draws, D\)"),
        (torch.randn(4, 12, 2), {}, "at least 16"),
        (torch.randn(1, 20, 12), {}, "its covariance in 12 dimensions needs at least 14"),
        (torch.full((4, 50, 2), math.nan), {}, "NaN or infinite"),
        (torch.ones(4, 50, 2), {}, "covariance is singular"),
        (torch.randn(4, 50, 2) + 40 * (torch.arange(50) > 25)[:, None], {}, "not finite at"),
        (torch.randn(4, 50, 2), {"num_groups": 5}, "5 groups of 4 chains"),
    ],
)
def test_impossible_requests_are_refused(draws, options, message):
    density = target_of(lambda x: torch.where(x < 20, -x.square(), -math.inf).sum(-1))
    with pytest.raises(ValueError, match=message):
        bridge(density, draws, **options)
