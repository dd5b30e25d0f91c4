"""Tests of simulation-based calibration: right methods pass, planted defects are caught, errors are clear."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch

from evidentia.inference.calibration.chains import autocorrelation
from evidentia.inference.calibration.goodness import calibration_report
from evidentia.inference.calibration.sbc import sbc
from evidentia.inference.calibration.simulate import simulate
from evidentia.inference.calibration.whitened import Whitened, within_covariance
from evidentia.inference.density.evaluation import tempered_of
from evidentia.inference.fit import fit
from evidentia.models.pair import Pair
from evidentia.studies.harness.handlers.calibration_cases import (
    defective_hmc,
    linear_case,
    logistic_case,
    schools_case,
)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def design(rows, columns):
    noise = torch.randn(rows, columns + 1, generator=torch.Generator().manual_seed(0))
    return 0.8 * noise[:, :1] + 0.6 * noise[:, 1:]


def model(y=None):
    mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", 3):
        return pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)


def exact(y, num_draws=99):
    return {"mean": y.sum() / 4 + 0.5 * torch.randn(num_draws)}


def test_truths_and_data_are_drawn_together():
    drawn = simulate(model, num=4000, seed=1)
    assert drawn.values["mean"].shape == (4000,)
    assert drawn.data["y"].shape == (4000, 3)
    residual = drawn.data["y"] - drawn.values["mean"][:, None]
    assert abs(float(residual.std()) - 1) < 4.5 / (2 * 12000) ** 0.5
    assert abs(float((residual[:, 0] * residual[:, 1]).mean())) < 4.5 / 4000**0.5
    assert abs(float((residual.mean(1) * drawn.values["mean"]).mean())) < 4.5 / (3 * 4000) ** 0.5
    again = simulate(model, num=4000, seed=1)
    assert torch.equal(drawn.data["y"], again.data["y"])


def test_data_of_a_model_that_needs_their_shape():
    def shaped(y, scale):
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("seen", dist.Normal(mean, scale), obs=y)

    drawn = simulate(shaped, y=torch.zeros(5), scale=torch.tensor(0.1), num=7)
    assert drawn.data["y"].shape == (7, 5)
    assert set(drawn.values) == {"mean"}
    assert float((drawn.data["y"] - drawn.values["mean"][:, None]).std()) < 0.2


def test_the_site_of_the_data_can_be_named():
    def silent(y=None):
        mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("seen", dist.Normal(mean, 1.0), obs=y)

    assert simulate(silent, data={"y": "seen"}, num=2).data["y"].shape == (2,)
    for wrong in ("y", {"y": "absent"}):
        with pytest.raises(ValueError, match="Fix: data="):
            simulate(silent, data=wrong, num=2)


def test_a_program_that_cannot_be_mapped_is_run_row_by_row():
    def branching(y=None):
        mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        return pyro.sample("obs", dist.Normal(mean if float(mean) > 0 else -mean, 0.1), obs=y)

    drawn = simulate(branching, num=50)
    assert float((drawn.data["y"] - drawn.values["mean"].abs()).abs().max()) < 0.5


def test_whitened_coordinates_give_the_gradient_of_the_same_density():
    density = tempered_of(lambda x: -0.5 * (x**2).sum(-1), lambda x: -((x - 1) ** 4).sum(-1))
    base = type("Base", (), {"evaluate": staticmethod(density)})()
    factor = torch.tensor([[2.0, 0.0], [0.5, 1.5]])
    white = Whitened(base, factor, torch.tensor([0.3, -1.0]), temper=0.5)
    z = torch.randn(4, 2, requires_grad=True)
    x = white.outward(z)
    torch.testing.assert_close(white.inward(x), z)
    value = -0.5 * (x**2).sum(-1) - 0.5 * ((x - 1) ** 4).sum(-1)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    found = white.evaluate(z.detach())
    torch.testing.assert_close(found.log_density, value.detach())
    torch.testing.assert_close(found.gradient, gradient)


def test_the_covariance_is_within_data_sets():
    draws = 100 * torch.randn(50, 1, 2) + torch.randn(50, 40, 2) * torch.tensor([1.0, 3.0])
    covariance, mean = within_covariance(draws)
    torch.testing.assert_close(covariance.diagonal(), torch.tensor([1.0, 9.0]), rtol=0.1, atol=0)
    assert mean.shape == (50, 2)


def test_autocorrelation_of_an_autoregression():
    noise = torch.randn(100, 8, 200, 1)
    value = [noise[:, :, 0]]
    for step in range(1, 200):
        value.append(0.7 * value[-1] + (1 - 0.49) ** 0.5 * noise[:, :, step])
    series = torch.stack(value, 2)
    assert float(autocorrelation(series)) == pytest.approx(0.7, abs=0.01)
    assert float(autocorrelation(series, 3)) == pytest.approx(0.343, abs=0.01)


def test_exact_draws_pass_and_shifted_or_narrow_ones_are_named():
    assert calibration_report(sbc(model, method=exact, num_draws=99)).calibrated
    shifted = {
        "biased high": lambda y: {"mean": exact(y)["mean"] + 0.25},
        "biased low": lambda y: {"mean": exact(y)["mean"] - 0.25},
        "under-dispersed": lambda y: {"mean": y.sum() / 4 + 0.3 * torch.randn(99)},
        "over-dispersed": lambda y: {"mean": y.sum() / 4 + 0.9 * torch.randn(99)},
    }
    for verdict, method in shifted.items():
        report = calibration_report(sbc(model, method=method, num_draws=99))
        assert report.lines[0].verdict == verdict
        assert report.lines[0].remedy
        assert not report.calibrated
        assert "NOT calibrated" in str(report)


def test_every_kind_of_method_gives_the_same_kind_of_result():
    def guide(y=None):
        pyro.sample("mean", dist.Normal(y.sum() / 4, 0.5))

    amortised = sbc(model, method=Pair(model, guide), num_draws=99)
    made = sbc(model, method=lambda y: Pair(model, guide), num_datasets=20, num_draws=99)
    assert calibration_report(amortised).calibrated
    assert amortised.names == made.names == ("mean", "log_likelihood", "log_prior")
    assert amortised.ranks.shape == (200, 3)
    assert made.ranks.shape == (20, 3)
    assert int(amortised.ranks.max()) <= 99


def test_a_fit_lends_its_parameters_to_the_guide():
    def guide(y=None):
        weight = pyro.param("weight", torch.tensor(0.25))
        pyro.sample("mean", dist.Normal(weight * y.sum(), 0.5))

    fitted = fit(Pair(model, guide), torch.zeros(3), num_steps=1)
    result = sbc(model, method=fitted, num_draws=99)
    assert result.ranks.shape == (200, 3)
    assert calibration_report(result).calibrated
    assert "weight" not in pyro.get_param_store()


def test_own_quantities_see_the_data():
    result = sbc(
        model,
        method=exact,
        num_datasets=30,
        num_draws=99,
        quantities={"distance": lambda values: (values["y"].mean(-1) - values["mean"]).abs()},
    )
    assert result.names[-1] == "distance"
    assert result.truth[:, -1].min() >= 0
    with pytest.raises(ValueError, match=r"quantity 'bad'.*Fix"):
        sbc(model, method=exact, num_datasets=10, num_draws=99, quantities={"bad": lambda v: v["y"]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_datasets": 2},
        {"start": "middle"},
        {"method": "hcm"},
        {"method": "nuts"},
        {"method": lambda y: 3},
        {"method": functools.partial(exact, num_draws=5)},
    ],
)
def test_errors_name_the_fix(wrong):
    with pytest.raises(ValueError, match="Fix:"):
        sbc(model, **{"num_datasets": 10, "num_draws": 9, **wrong})


def test_a_kernel_runs_all_data_sets_in_one_batch():
    result = sbc(
        model, method="hmc", num_datasets=100, num_draws=20, chains_per_dataset=4, pilot_steps=30,
        warmup_steps=20, executor="fx", seed=3,
    )  # fmt: skip
    assert result.ranks.shape == (100, 3)
    assert result.acceptance.shape == (100,)
    # The means are those of the exact posteriors.
    data = simulate(model, num=100, seed=_first_seed(3)).data["y"]
    torch.testing.assert_close(result.mean[:, 0], data.sum(1) / 4, atol=4.5 * 0.5 / 16**0.5, rtol=0)
    assert calibration_report(result).calibrated
    again = sbc(
        model, method="hmc", num_datasets=100, num_draws=20, chains_per_dataset=4, pilot_steps=30,
        warmup_steps=20, executor="fx", seed=3,
    )  # fmt: skip
    assert torch.equal(result.ranks, again.ranks)


def _first_seed(seed):
    return int(torch.randint(2**62, (4,), generator=torch.Generator().manual_seed(seed))[0])


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("start", ["prior", "truth"])
@pytest.mark.parametrize("method", ["hmc", "mala", "barker", "random_walk"])
def test_kernels_pass_on_the_logistic_model(method, start):
    case = logistic_case(design(30, 3))
    result = sbc(case.model, *case.args, method=method, start=start, seed=2)
    assert calibration_report(result, level=1e-3).calibrated
    assert float(result.autocorrelation.max()) < 0.3


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("defect", ["prior", "jacobian", "accept ratio", "independent normals"])
def test_planted_defects_are_caught_at_the_default_size(defect):
    if defect == "prior":
        case, options = schools_case(prior_scale=1.1), {"method": "hmc"}
    elif defect == "jacobian":
        case, options = schools_case(jacobian="wrong"), {"method": "mala", "thinning": 8}
    else:
        case = linear_case(design(30, 20))
        options = {"method": case.pair if defect == "independent normals" else defective_hmc()}
    result = sbc(case.model, *case.args, simulator=case.simulator, seed=201, **options)
    report = calibration_report(result)
    assert not report.calibrated
    if defect == "independent normals":
        flagged = [line.verdict for line in report.lines if line.quantity.startswith("beta")]
        assert flagged == ["under-dispersed"] * 20


@pytest.mark.slow
@pytest.mark.statistical
def test_the_same_models_without_a_defect_pass():
    case = schools_case()
    assert calibration_report(sbc(case.model, *case.args, seed=201), level=1e-3).calibrated
    case = linear_case(design(30, 20))
    for method in ("hmc", case.exact):
        assert calibration_report(sbc(case.model, *case.args, method=method, seed=201), level=1e-3).calibrated
