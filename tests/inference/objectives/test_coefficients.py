"""Gradients of every objective: the exact mean of each estimator against the exact gradient."""

import math

import particle_toys as toys
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from evidentia.inference.objectives.coefficients import (
    COMBINATIONS,
    DeadRowWarning,
    check_combination,
    coefficients,
    promise,
)

OPTIONS = {
    "renyi": {"alpha": 0.5},
    "miwae": {"outer": 2},
    "piwae": {"outer": 2},
    "ciwae": {"beta": 0.3},
    "cubo": {"alpha": -1.0},
}
ALL = [(objective, gradient) for objective, gradients in COMBINATIONS.items() for gradient in gradients]
SCORED = [
    (o, g)
    for o, g in ALL
    if o not in ("rws", "tail_adaptive") and g not in ("dreg", *(["stl"] * (o != "elbo")))
]


def rule(objective, gradient, **options):
    return lambda log_w: coefficients(log_w, objective, gradient, **options)


def gaussian_mean(objective, gradient, size, nodes, *, reparameterised=True, **options):
    eps, weight = toys.normal_grid(size, nodes)
    draws = toys.gaussian_gradient(eps, rule(objective, gradient, **options), reparameterised=reparameterised)
    return toys.moments(draws, weight)


# -- unbiasedness, without Monte-Carlo error -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "gradient", "size", "nodes", "tolerance"),
    [
        ("elbo", "total", 2, 40, 1e-10),
        ("elbo", "stl", 2, 40, 1e-10),
        ("iwae", "total", 2, 100, 1e-10),
        ("iwae", "vimco", 2, 100, 1e-10),
        ("iwae", "dreg", 2, 100, 1e-5),
        ("iwae", "dreg", 3, 60, 1e-5),
        ("ciwae", "total", 2, 100, 1e-10),
        ("ciwae", "dreg", 2, 100, 1e-5),
        ("jackknife", "total", 3, 44, 1e-10),
        ("jackknife", "dreg", 3, 60, 3e-4),
        ("miwae", "total", 4, 24, 1e-10),
        ("miwae", "dreg", 4, 28, 2e-3),
    ],
)
def test_reparameterised_gradients_are_unbiased(objective, gradient, size, nodes, tolerance):
    """DReG's exact mean differs only by the quadrature error, which falls with the number of nodes."""
    options = OPTIONS.get(objective, {})
    _, exact = toys.gaussian_exact(objective, size, nodes, **options)
    mean, _ = gaussian_mean(objective, gradient, size, nodes, **options)
    torch.testing.assert_close(mean, exact, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.5, 1e-8), (-1.0, 1.5e-3), (1.5, 1e-8), (1.0, 1e-10)])
@pytest.mark.parametrize("gradient", ["total", "dreg"])
def test_renyi_gradients_are_unbiased_at_several_orders(alpha, tolerance, gradient):
    exact_name = "elbo" if alpha == 1.0 else "renyi"
    _, exact = toys.gaussian_exact(exact_name, 2, 100, alpha=alpha)
    mean, _ = gaussian_mean("renyi", gradient, 2, 100, alpha=alpha)
    torch.testing.assert_close(mean, exact, atol=1e-10 if gradient == "total" else tolerance, rtol=0)


def test_the_quadrature_error_of_cubo_falls_with_the_nodes():
    errors = []
    for nodes in (40, 100):
        _, exact = toys.gaussian_exact("cubo", 2, nodes, alpha=-1.0)
        mean, _ = gaussian_mean("cubo", "dreg", 2, nodes)
        errors.append(float((mean - exact).abs().max()))
    assert errors[1] < errors[0] / 5
    assert errors[1] < 1.5e-3


@pytest.mark.parametrize(("objective", "gradient"), SCORED)
def test_score_gradients_are_unbiased(objective, gradient):
    size, options = 4, OPTIONS.get(objective, {})
    z = toys.states(size)
    if objective == "piwae":  # θ from all the particles, φ from the groups
        first, second = (toys.discrete_exact(o, size, outer=2)[1] for o in ("iwae", "miwae"))
        exact = torch.cat([first[:3], second[3:]])
    else:
        _, exact = toys.discrete_exact(objective, size, **options)
    mean, _ = toys.moments(
        toys.discrete_gradient(z, rule(objective, gradient, **options)), toys.discrete_weight(z)
    )
    torch.testing.assert_close(mean, exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("gradient", ["total", "vimco", "loo"])
def test_score_and_path_agree_on_one_continuous_site(gradient):
    _, exact = toys.gaussian_exact("iwae", 2, 100)
    mean, _ = gaussian_mean("iwae", gradient, 2, 100, reparameterised=False)
    torch.testing.assert_close(mean, exact, atol=1e-5, rtol=0)


def test_the_two_forms_of_wake_sleep_have_one_mean_and_theta_climbs_the_bound():
    total, dreg = (gaussian_mean("rws", g, 2, 100)[0] for g in ("total", "dreg"))
    torch.testing.assert_close(total, dreg, atol=1e-5, rtol=0)
    torch.testing.assert_close(total[0], toys.gaussian_exact("iwae", 2, 100)[1][0])
    # The phi part tends to minus the gradient of KL(p ‖ q), here E_posterior[score of q].
    variance = 1 / (1 + 1 / toys.OBS_SD**2)
    mean = variance * (toys.GAUSSIAN[0] + toys.X / toys.OBS_SD**2)
    _, m, s = toys.GAUSSIAN
    exact = torch.tensor(
        [(mean - m) / math.exp(2 * s), (variance + (mean - m) ** 2) / math.exp(2 * s) - 1]
    ).double()
    torch.manual_seed(0)
    draws = toys.gaussian_gradient(torch.randn(200, 4000, dtype=torch.float64), rule("rws", "dreg"))[:, 1:]
    assert ((draws.mean(0) - exact).abs() < 0.05 * exact.abs() + 0.01).all()


def test_iwae_stl_is_biased_and_the_z_rule_sees_it():
    """The negative control: with two particles the bias is dozens of standard errors."""
    torch.manual_seed(0)
    eps = torch.randn(2, 20_000, dtype=torch.float64)
    _, exact = toys.gaussian_exact("iwae", 2, 100)
    z = {
        g: toys.z_scores(toys.gaussian_gradient(eps, rule("iwae", g)), exact)
        for g in ("total", "stl", "dreg")
    }
    assert z["total"].abs().max() < 4.5
    assert z["dreg"].abs().max() < 4.5
    assert z["stl"].abs().max() > 40
    bias = gaussian_mean("iwae", "stl", 2, 100)[0] - exact
    assert bias.abs().max() > 0.3
    torch.testing.assert_close(gaussian_mean("iwae", "stl", 1, 60)[0], toys.gaussian_exact("elbo", 1, 60)[1])


@pytest.mark.statistical
@pytest.mark.parametrize(("objective", "gradient"), [pair for pair in ALL if promise(*pair).unbiased])
def test_replicates_in_a_plate_are_independent_gradients(objective, gradient):
    """The replicate trick: the z-rule for whatever promises to be unbiased, at K = 4."""
    torch.manual_seed(1)
    options = OPTIONS.get(objective, {})
    eps = torch.randn(4, 20_000, dtype=torch.float64)
    draws = toys.gaussian_gradient(eps, rule(objective, gradient, **options))
    if objective == "elbo":
        exact = toys.gaussian_exact("elbo", 1, 60)[1]
    elif objective == "miwae":
        exact = toys.gaussian_exact("iwae", 2, 100)[1]
    else:
        exact = toys.gaussian_exact(objective, 4, 24, **options)[1]
    assert toys.z_scores(draws, exact).abs().max() < 4.5


# -- variance ------------------------------------------------------------------------------------------------


def test_dreg_halves_the_spread_of_the_total_gradient_on_the_gaussian_toy():
    """Here, and no such promise in general."""
    sd = {g: gaussian_mean("iwae", g, 3, 44)[1] for g in ("total", "dreg")}
    assert sd["total"][1].item() == pytest.approx(1.80, abs=0.02)
    assert sd["dreg"][1].item() == pytest.approx(0.73, abs=0.02)
    assert sd["dreg"][1] < 0.7 * sd["total"][1]


def test_vimco_has_a_quarter_of_the_spread_of_the_plain_score():
    z = toys.states(3)
    sd = {
        g: toys.moments(toys.discrete_gradient(z, rule("iwae", g)), toys.discrete_weight(z))[1][3:]
        for g in ("total", "vimco", "loo")
    }
    assert sd["total"].tolist() == pytest.approx([1.34, 1.03, 1.27], abs=0.01)
    assert sd["vimco"].tolist() == pytest.approx([0.26, 0.15, 0.26], abs=0.01)
    assert (4 * sd["vimco"] < sd["total"]).all()
    assert (sd["loo"] < sd["total"]).all()
    draws = toys.discrete_gradient(z, rule("jackknife", "total"))  # it has a baseline of its own
    assert (toys.moments(draws, toys.discrete_weight(z))[1][3:] < 0.5).all()


# -- form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "gradient"), ALL)
def test_shapes_ratio_and_the_rows_of_zero_weight(objective, gradient):
    options = OPTIONS.get(objective, {})
    torch.manual_seed(0)
    w = torch.randn(4, 3, 2, dtype=torch.float64)
    c = coefficients(w.requires_grad_(), objective, gradient, **options)
    assert c.value.shape == (3, 2)
    for part in c[1:]:
        assert part is None or (part.shape == w.shape and not part.requires_grad)
    if c.ratio is not None:
        torch.testing.assert_close(c.theta * c.ratio, c.path)
    torch.testing.assert_close(c.value, toys.naive(objective, **options)(w).detach())
    # One row without any weight: a warning that names it, zeros there, the other rows untouched.
    dead = w.detach().clone()
    dead[:, 1, 1] = -math.inf
    with pytest.warns(DeadRowWarning, match=r"plate index \(1, 1\)"):
        got = coefficients(dead, objective, gradient, **options)
    assert got.value[1, 1] == -math.inf
    for part, whole in zip(got[1:], c[1:], strict=True):
        if part is not None and whole is not None:
            assert torch.isfinite(part).all()
            torch.testing.assert_close(part[:, 0], whole[:, 0])
    if objective not in ("elbo", "ciwae"):
        assert (got.theta[:, 1, 1] == 0).all()


@pytest.mark.parametrize(("objective", "gradient"), [(o, g) for o, g in ALL if o not in ("elbo", "ciwae")])
def test_one_impossible_particle_is_the_limit_of_an_improbable_one(objective, gradient):
    options = OPTIONS.get(objective, {})
    w = torch.tensor([0.3, -0.5, 1.0, 0.2], dtype=torch.float64)
    results = []
    for low in (-700.0, -math.inf):
        w[1] = low
        results.append(coefficients(w, objective, gradient, **options))
    for near, limit in zip(*results, strict=True):
        if near is None:
            assert limit is None
        elif objective != "tail_adaptive":
            assert torch.isfinite(limit).all()
            atol = 1e-9 if gradient not in ("vimco", "loo") else math.inf  # its mean of the others diverges
            torch.testing.assert_close(near, limit, atol=atol, rtol=0)


def test_unbiased_score_with_impossible_states():
    """Some states of weight zero: VIMCO's baseline is infinite there, and zero takes its place."""
    t = torch.tensor([-1.0, 0.3, -math.inf], dtype=torch.float64)
    logits = torch.tensor(toys.GUIDE_LOGITS, dtype=torch.float64, requires_grad=True)
    z = toys.states(3)
    log_w, log_q = toys.discrete_log_weight(z, t, logits)
    alive = ~torch.isneginf(log_w).all(0)
    weight = log_q.sum(0).exp()
    value = (weight[alive] * (torch.logsumexp(log_w[:, alive], 0) - math.log(3))).sum()
    (exact,) = torch.autograd.grad(value, logits)
    hot = torch.nn.functional.one_hot(z, 3).double() - logits.detach().softmax(0)
    for gradient in ("total", "vimco", "loo"):
        with pytest.warns(DeadRowWarning):
            s = coefficients(log_w, "iwae", gradient).score_other
        mean = (weight.detach()[:, None] * (s[..., None] * hot).sum(0)).sum(0)
        torch.testing.assert_close(mean, exact, atol=1e-12, rtol=0)


def test_one_particle_may_come_without_a_particle_dimension():
    c = coefficients(torch.tensor(-1.5), "elbo", "total")
    assert c.value.item() == -1.5
    assert c.theta.tolist() == [1.0]
    got = coefficients(torch.tensor([-1.5]), "elbo", "total", baseline=-1.0)
    assert got.score_other.tolist() == [-0.5]


@pytest.mark.parametrize(("gradient", "elbo"), [("total", "total"), ("dreg", "stl")])
def test_renyi_of_order_one_is_the_elbo_with_its_baselines(gradient, elbo):
    w = torch.randn(4, 3, dtype=torch.float64)
    pairs = zip(coefficients(w, "renyi", gradient, alpha=1.0), coefficients(w, "elbo", elbo), strict=True)
    for ours, expected in pairs:
        torch.testing.assert_close(ours, expected)


def test_tail_adaptive_weights_are_ranks_and_not_positions():
    w = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    for gradient in ("total", "stl"):
        a = coefficients(w, "tail_adaptive", gradient).theta
        torch.testing.assert_close(a, torch.tensor([6.0, 2.0, 3.0]).double() / 11, atol=1e-12, rtol=0)
    flat = coefficients(w, "tail_adaptive", "total", beta=0.0)
    torch.testing.assert_close(flat.theta, torch.full((3,), 1 / 3).double())
    assert coefficients(w, "tail_adaptive", "stl").score_reparam.tolist() == [0.0, 0.0, 0.0]


def test_piwae_keeps_both_coefficients_where_their_ratio_underflows():
    w = torch.tensor([900.0, 899.0, 0.0, 1.0], dtype=torch.float64)
    c = coefficients(w, "piwae", "dreg", outer=2)
    assert c.ratio is None
    assert c.theta[2:].tolist() == [0.0, 0.0]
    assert (c.path[2:] > 0.03).all()


def test_jackknife_keeps_both_coefficients_because_a_changes_its_sign():
    x = torch.linspace(0, 6, 601, dtype=torch.float64)
    log_w = torch.stack([x, torch.zeros_like(x), torch.full_like(x, 4.0)])
    c = coefficients(log_w, "jackknife", "dreg")
    assert c.ratio is None
    nearest = c.theta[0].abs().argmin()
    assert c.theta[0].min() < -0.1
    assert c.theta[0].max() > 0.1
    assert c.path[0, nearest].abs() > 100 * c.theta[0, nearest].abs()


def test_miwae_groups_are_runs_of_neighbours():
    w = torch.randn(6, 2, dtype=torch.float64)
    c = coefficients(w, "miwae", "vimco", outer=3)
    parts = [coefficients(part, "iwae", "vimco") for part in w.chunk(3)]
    for name in ("theta", "path", "score_reparam", "score_other"):
        expected = torch.cat([getattr(part, name) for part in parts]) / 3
        torch.testing.assert_close(getattr(c, name), expected)
    torch.testing.assert_close(c.ratio, torch.cat([part.ratio for part in parts]))


@pytest.mark.parametrize(("objective", "gradient"), ALL)
def test_a_graph_can_be_captured(objective, gradient):
    options = OPTIONS.get(objective, {})

    def parts(w):
        return [part for part in coefficients(w, objective, gradient, **options) if part is not None]

    graph = make_fx(parts)(torch.randn(4, 3))
    w = torch.randn(4, 3)
    torch.testing.assert_close(graph(w), parts(w))


# -- what is refused, what is promised -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("iwea", "total"), "objective: unknown name 'iwea', did you mean 'iwae'"),
        (("iwae", "dregs"), "gradient: unknown name 'dregs', did you mean 'dreg'"),
        (("elbo", "dreg"), "does not go with objective 'elbo': .* 'stl'. Fix: one of total, stl"),
        (("jackknife", "vimco", 4), "for evaluation"),
        (("iwae", "total", 0), "num_particles: expected a number >= 1"),
        (("iwae", "vimco", 1), "needs at least 2, got 1"),
        (("miwae", "loo", 4, 4), "needs at least 2 in each of 4 groups, got 1.*num_particles=8"),
        (("rws", "total", 1), "noise of mean zero"),
        (("miwae", "dreg", 5, 2), "divisor of num_particles=5, got 2"),
        (("iwae", "dreg", 4, 2), "has no groups"),
        (("renyi", "total", 4), "needs a finite order, got None"),
        (("iwae", "total", 4, 1, 0.5), "alpha: objective 'iwae' has no order"),
        (("cubo", "total", 4, 1, 0.5), "takes alpha = 1 - n"),
        (("ciwae", "total", 4, 1, None, 1.5), r"needs a number in \[0, 1\], got 1.5"),
        (("elbo", "total", 4, 1, None, 0.5), "beta: objective 'elbo' has no such option"),
    ],
)
def test_impossible_combinations_say_what_is_possible(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_combination(*arguments)


def test_a_baseline_that_would_not_be_used_is_refused():
    with pytest.raises(ValueError, match="baseline: only objective 'elbo' with one particle"):
        coefficients(torch.zeros(3), "iwae", "total", baseline=1.0)


def test_promises():
    biased = {pair for pair in ALL if not promise(*pair).unbiased}
    assert biased == {
        ("iwae", "stl"),
        ("miwae", "stl"),
        ("ciwae", "stl"),
        *(pair for pair in ALL if pair[0] in ("rws", "tail_adaptive", "piwae")),
    }
    assert {o for o, g in ALL if promise(o, g).bound == "none"} == {"jackknife", "cubo"}
    assert promise("renyi", "dreg", alpha=-1.0).bound == "none"
    assert promise("iwae", "stl", num_particles=1).unbiased
    with pytest.raises(ValueError, match="does not go with"):
        promise("elbo", "dreg")
