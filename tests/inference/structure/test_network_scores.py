"""Leave-one-out and conditional evidence of networks against the closed form of linear models."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from evidentia.inference.structure.networks import network_evidence
from evidentia.inference.structure.stacked.scores import leave_one_out, network_scores
from evidentia.models.likelihood import Gaussian
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM, Constant


@pytest.mark.slow
@pytest.mark.statistical
def test_scores_of_linear_models_are_the_closed_form():
    torch.set_default_dtype(torch.float64)
    x = torch.randn(16, 3)
    x[:, 2] += 0.6 * x[:, 0]
    y = x[:, 0] - 0.5 * x[:, 1] + 0.3 * torch.randn(16)
    family = Family(3).edge("x", "f", ops={"constant": Constant(), "two": GLM([0, 1]), "all": GLM()})
    model = family.model(likelihood=Gaussian(0.6))
    options = {"guide": "full_covariance", "num_steps": 400, "evidence_batches": 5}
    result = network_evidence(model, x, y, family.vertices(), **options)
    rows = torch.tensor([2, 0])
    found = network_scores(model, x, y, result, split=6, num_draws=20_000, **options)(rows)
    # A mean-field guide is not the posterior, so its draws need their importance weights.
    rough = network_evidence(model, x, y, family.vertices(), num_steps=300, evidence_batches=2)
    pointwise = leave_one_out(model, x, y, rough, rows, num_draws=20_000)
    for place, design in enumerate((x, torch.ones(16, 1))):

        def log_evidence(keep, design=design):
            covariance = 0.36 * torch.eye(16) + design @ design.T
            return MultivariateNormal(torch.zeros(len(keep)), covariance[keep][:, keep]).log_prob(y[keep])

        every = torch.arange(16)
        whole = log_evidence(every)
        exact = torch.stack([whole - log_evidence(every[every != i]) for i in range(16)])
        torch.testing.assert_close(pointwise[place], exact, atol=0.06, rtol=0)
        assert abs(found.elpd_loo[place] - exact.sum()) < 0.15
        assert abs(found.elpd_loo_se[place] - (16 * exact.var()).sqrt()) < 0.15
        assert abs(found.conditional_log_evidence[place] - (whole - log_evidence(every[:6]))) < 0.01
    tempered = network_evidence(
        model, x, y, family.vertices(), num_steps=1, evidence_batches=2, prior_weight=2.0
    )
    with pytest.raises(ValueError, match=r"power 0.5; scores need power 1"):
        network_scores(model, x, y, tempered)
    with pytest.raises(ValueError, match="split: expected between 1 and 15"):
        network_scores(model, x, y, result, split=16)
