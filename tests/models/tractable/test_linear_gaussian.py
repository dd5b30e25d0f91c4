"""Linear-Gaussian models: exact evidence and posterior, bounds that equal it, maximum likelihood."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from sklearn import decomposition
from sklearn.datasets import load_wine

from evidentia.inference.fit import fit
from evidentia.models.tractable.exact_guide import ExactGuide, exact_pair
from evidentia.models.tractable.factor_analysis import FactorAnalysis, factor_analysis_em, factor_step
from evidentia.models.tractable.linear_gaussian import LinearGaussian, mean_field_gap, posterior_precision
from evidentia.models.tractable.ppca import ProbabilisticPCA, ppca_maximum_likelihood


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def wine():
    x = torch.tensor(load_wine().data)
    return (x - x.mean(0)) / x.std(0, correction=0)


def ppca():
    return ProbabilisticPCA(torch.randn(5), torch.randn(5, 2), 0.6)


def factor_analysis():
    return FactorAnalysis(torch.randn(5), torch.randn(5, 2), torch.rand(5) + 0.3)


MODELS = {"ppca": ppca, "factor analysis": factor_analysis}


def row_weights(model, guide, x):
    """log p(x, z) - log q(z | x) of each row, for one draw of z."""
    drawn = poutine.trace(guide).get_trace(x)
    joint = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(x)
    for trace in (drawn, joint):
        trace.compute_log_prob()
    return sum(joint.nodes[name]["log_prob"] for name in ("z", "obs")) - drawn.nodes["z"]["log_prob"]


@pytest.mark.parametrize("name", MODELS)
def test_the_evidence_is_the_dense_gaussian(name):
    model = MODELS[name]()
    x = model(size=7).detach()
    dense = model.factor @ model.factor.T + model.variance.diag()
    expected = dist.MultivariateNormal(model.loc, dense).log_prob(x)
    torch.testing.assert_close(model.log_evidence(x), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_the_posterior_is_the_conditional_of_the_joint_gaussian(name):
    model = MODELS[name]()
    x = model(size=7).detach()
    covariance = model.factor @ model.factor.T + model.variance.diag()
    gain = torch.linalg.solve(covariance, model.factor).T
    law = model.posterior(x)
    torch.testing.assert_close(law.mean, (x - model.loc) @ gain.T, atol=1e-10, rtol=0)
    expected = (torch.eye(2) - gain @ model.factor).expand(7, 2, 2)
    torch.testing.assert_close(law.covariance_matrix, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_with_the_exact_guide_every_sample_is_the_evidence(name):
    model, guide = exact_pair(MODELS[name]())
    x = model(size=7).detach()
    exact = model.log_evidence(x)
    for _ in range(3):
        torch.testing.assert_close(row_weights(model, guide, x), exact, atol=1e-10, rtol=0)
    for particles in (1, 5):
        objective = Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=1)
        assert -objective.loss(model, guide, x) == pytest.approx(float(exact.detach().sum()), abs=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_with_the_exact_guide_every_gradient_is_that_of_the_evidence(name):
    model, guide = exact_pair(MODELS[name]())
    x = model(size=7).detach()
    parameters = list(model.parameters())
    exact = torch.autograd.grad(model.log_evidence(x).sum(), parameters)
    bound = torch.autograd.grad(-Trace_ELBO().differentiable_loss(model, guide, x), parameters)
    for ours, expected in zip(bound, exact, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)


def test_the_guide_adds_no_parameter_of_its_own():
    model, guide = exact_pair(ppca())
    x = model(size=7).detach()
    guide(x)
    model(x)
    assert sorted(pyro.get_param_store()) == ["factor", "loc", "scale"]
    with pytest.raises(ValueError, match="no posterior without data"):
        guide()
    assert "ProbabilisticPCA" in repr(ExactGuide(model))


def test_a_minibatch_is_scaled_to_the_data_set():
    model, guide = exact_pair(ppca())
    x = model(size=8).detach()
    bound = -Trace_ELBO().loss(model, guide, x[:2], size=8)
    assert bound == pytest.approx(4 * float(model.log_evidence(x[:2]).detach().sum()), abs=1e-9)


def test_the_best_diagonal_guide_is_exact_in_the_principal_basis_only(wine):
    parameters = ppca_maximum_likelihood(wine, 3)
    model, guide = exact_pair(ProbabilisticPCA(*parameters), mean_field=True)
    exact = model.log_evidence(wine)
    torch.testing.assert_close(row_weights(model, guide, wine), exact, atol=1e-10, rtol=0)
    assert mean_field_gap(model.factor, model.variance).abs() < 1e-12
    rotation = torch.linalg.qr(torch.randn(3, 3))[0]
    turned = ProbabilisticPCA(parameters.loc, parameters.factor @ rotation, parameters.scale)
    torch.testing.assert_close(turned.log_evidence(wine), exact, atol=1e-10, rtol=0)
    gap = mean_field_gap(turned.factor, turned.variance).detach()
    divergence = torch.distributions.kl_divergence(
        dist.MultivariateNormal(
            turned.mean_field(wine).mean,
            turned.mean_field(wine).base_dist.scale.square().diag_embed(),
        ),
        turned.posterior(wine),
    )
    torch.testing.assert_close(divergence.detach(), gap.expand(len(wine)), atol=1e-10, rtol=0)
    assert gap > 1e-3


def test_no_other_diagonal_guide_has_a_smaller_gap():
    precision = torch.tensor([[2.0, 0.8], [0.8, 1.5]])
    precision = 2 * precision  # so that P - I is W'W for some W; the gap does not depend on the scale of P
    factor = torch.linalg.cholesky(precision - torch.eye(2)).T
    torch.testing.assert_close(posterior_precision(factor, torch.ones(2)), precision)
    gap = float(mean_field_gap(factor, torch.ones(2)))
    assert gap == pytest.approx(0.5 * torch.log(torch.tensor(3.0 / 2.36)).item(), abs=1e-12)
    exact = dist.MultivariateNormal(torch.zeros(2), precision_matrix=precision)
    log_scale = (-precision.diagonal().log() / 2).requires_grad_()
    q = dist.MultivariateNormal(torch.zeros(2), log_scale.exp().square().diag_embed())
    divergence = torch.distributions.kl_divergence(q, exact)
    assert float(divergence.detach()) == pytest.approx(gap, abs=1e-10)
    assert torch.autograd.grad(divergence, log_scale)[0].abs().max() < 1e-10


def test_maximum_likelihood_of_the_principal_components(wine):
    parameters = ppca_maximum_likelihood(wine, 3)
    model = ProbabilisticPCA(*parameters)
    likelihood = model.log_evidence(wine).mean()
    gradients = torch.autograd.grad(likelihood, list(model.parameters()))
    likelihood = likelihood.detach()
    assert max(float(g.abs().max()) for g in gradients) < 1e-10  # a stationary point
    eigenvalues = torch.linalg.eigvalsh(wine.T @ wine / len(wine)).flip(0)
    assert float(parameters.scale.square()) == pytest.approx(float(eigenvalues[3:].mean()), rel=1e-12)
    # scikit-learn divides by n - 1, so it is lower, by little.
    peer = decomposition.PCA(3).fit(wine.numpy()).score(wine.numpy())
    assert 0 < float(likelihood) - peer < 1e-3


def test_with_known_noise_the_number_of_columns_is_the_number_of_eigenvalues_above_it():
    eigenvalues = torch.tensor([6.0, 4.0, 2.0, 0.7, 0.5, 0.3])
    draws = torch.randn(100, 6)
    left = torch.linalg.svd(draws - draws.mean(0), full_matrices=False)[0]
    axes = torch.linalg.qr(torch.randn(6, 6))[0]
    x = (left * (100 * eigenvalues).sqrt()) @ axes.T + 3
    factor = ppca_maximum_likelihood(x, 5, scale=1.0).factor
    torch.testing.assert_close(factor.square().sum(0), (eigenvalues[:5] - 1).clamp(min=0))


def test_em_of_factor_analysis_climbs_to_the_maximum(wine):
    result = factor_analysis_em(wine, 3, num_steps=2000, tolerance=1e-10)
    rises = result.log_likelihood.diff()
    assert rises.min() > -1e-13
    model = FactorAnalysis(*result[:3])
    likelihood = model.log_evidence(wine).mean()
    assert likelihood - result.log_likelihood[-1] > -1e-12
    gradients = torch.autograd.grad(likelihood, list(model.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-4
    peer = decomposition.FactorAnalysis(3, tol=1e-10, max_iter=5000).fit(wine.numpy())
    assert float(likelihood.detach()) == pytest.approx(peer.score(wine.numpy()), abs=1e-6)


def test_the_likelihood_of_a_step_is_that_of_its_input(wine):
    factor, variance = torch.randn(13, 2), torch.rand(13) + 0.5
    step = factor_step(wine.T @ wine / len(wine), factor, variance)
    expected = FactorAnalysis(torch.zeros(13), factor, variance.sqrt()).log_evidence(wine).mean()
    torch.testing.assert_close(step.log_likelihood, expected.detach())


def test_a_heywood_case_ends_at_the_floor():
    # The correlations are those of one factor with loadings (1.36, 0.66, 0.44): the first exceeds one.
    covariance = torch.tensor([[1.0, 0.9, 0.6], [0.9, 1.0, 0.29], [0.6, 0.29, 1.0]])
    draws = torch.randn(50, 3)
    left = torch.linalg.svd(draws - draws.mean(0), full_matrices=False)[0]
    x = 50**0.5 * left @ torch.linalg.cholesky(covariance).T
    held = factor_analysis_em(x, 1, num_steps=500, tolerance=0.0, floor=0.05)
    assert float(held.scale[0].square()) == pytest.approx(0.05)
    assert held.log_likelihood.diff().min() > -1e-13
    free = factor_analysis_em(x, 1, num_steps=500, tolerance=0.0)
    assert 0 < float(free.scale[0].square()) < 0.05
    assert free.log_likelihood[-1] > held.log_likelihood[-1]


def test_a_constant_column_is_named():
    x = torch.randn(30, 4) * torch.tensor([1.0, 1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match=r"column 2 reaches zero.*floor=1e-6"):
        factor_analysis_em(x, 1)
    assert float(factor_analysis_em(x, 1, floor=1e-6).scale[2]) == pytest.approx(1e-3)


def test_training_the_pair_reaches_the_closed_form(wine):
    x = wine[:, :4]
    best = ProbabilisticPCA(*ppca_maximum_likelihood(x, 1)).log_evidence(x).sum()
    pyro.set_rng_seed(3)
    pair = exact_pair(ProbabilisticPCA(torch.zeros(4), torch.randn(4, 1), 1.0))
    result = fit(pair, x, num_steps=150, learning_rate=0.08, seed=0)
    assert float(-result.losses[-1]) == pytest.approx(float(best.detach()), abs=0.05)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ProbabilisticPCA(torch.zeros(3), torch.zeros(2, 1), 1.0), r"loc \(D,\) and factor"),
        (lambda: ProbabilisticPCA(torch.zeros(3), torch.zeros(3, 1), 0.0), "one positive finite scale"),
        (lambda: ProbabilisticPCA(torch.zeros(3), torch.zeros(3, 1), torch.ones(3)), "use FactorAnalysis"),
        (lambda: FactorAnalysis(torch.zeros(3), torch.zeros(3, 1), torch.ones(2)), "3 positive finite"),
        (lambda: ppca_maximum_likelihood(torch.randn(9, 3), 3), "between 1 and 2 latents"),
        (lambda: ppca_maximum_likelihood(torch.randn(1, 3), 1), "at least 2 rows"),
        (lambda: ppca_maximum_likelihood(torch.randn(9, 1).expand(9, 3), 1), "likelihood has no maximum"),
        (lambda: ppca_maximum_likelihood(torch.randn(9, 3), 1, scale=-1.0), "positive scale"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_abstract_model_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="defines variance"):
        LinearGaussian(torch.zeros(2), torch.ones(2, 1)).variance  # noqa: B018
