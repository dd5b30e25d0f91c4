"""Restarts in one mapped step: equal to fits one by one, and none can harm another."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

from evidentia.inference.compile.inputs import Modules
from evidentia.inference.fit import FitError, fit
from evidentia.inference.objectives.presets import ELBO
from evidentia.inference.training.schedules import linear
from evidentia.inference.training.starts import Restarts, initial_values


def data(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=generator)
    return x, torch.tanh(x.sum(-1))


class Net(PyroModule):
    """A network without latents: its fit draws no noise, so restarts can be compared exactly."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        middle = [nn.BatchNorm1d(4)] if norm else []
        self.net = nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 1))
        self.log_scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(self.net(x).squeeze(-1), self.log_scale.exp()), obs=y)


def nothing(x, y):
    """A guide without latents."""


def net(norm: bool = False) -> Net:
    torch.manual_seed(5)
    return Net(norm)


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.5)


@pytest.mark.parametrize("norm", [False, True])
def test_every_restart_is_the_fit_that_starts_where_it_started(norm: bool) -> None:
    x, y = data()
    torch.manual_seed(0)
    model = net(norm)
    starts = []

    def initial(restart, values):
        starts.append({name: value + 0.1 * restart for name, value in values.items()})
        return starts[-1]

    # Plain gradient steps: Adam would blow up the rounding noise of a bias in front of a normalisation.
    options = {"optimizer": sgd, "learning_rate": 0.005, "objective": ELBO()}
    together = fit((model, nothing), x, y, num_steps=12, restarts=Restarts(3, initial=initial), **options)
    assert together.restart_losses.shape == (3, 12)
    fresh = {k.replace("net.", "net$$$"): v.detach().clone() for k, v in net(norm).named_parameters()}
    starts = [fresh, *starts]
    for number, start in enumerate(starts):
        single = net(norm)
        with torch.no_grad():
            for name, value in single.named_parameters():
                value.copy_(start[name.replace("net.", "net$$$")])
        alone = fit((single, nothing), x, y, num_steps=12, **options)
        restart = together.restart(number)
        torch.testing.assert_close(restart.losses, alone.losses, rtol=1e-4, atol=1e-4)
        for name in alone.params:
            torch.testing.assert_close(restart.params[name], alone.params[name], rtol=1e-3, atol=1e-4)
        if norm:
            name = "buffer/model/net.1.running_mean"
            torch.testing.assert_close(restart.state[name], alone.state[name], rtol=1e-3, atol=1e-4)
    scores = together.restart_losses[:, -3:].mean(-1)
    assert together.best_restart == int(scores.argmin())
    for name, value in model.named_parameters():
        assert torch.equal(value, together.params[name.replace("net.", "net$$$")])
    continued = fit((model, nothing), x, y, num_steps=15, state=together.state, **options)
    assert len(continued.losses) == 15
    assert continued.losses[12] < together.losses[0]


Y = torch.tensor([1.0, 2.0])


def latent(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Normal(z, 1.0), obs=y)


def guide(y):
    loc = pyro.param("loc", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Normal(loc, scale))


@pytest.mark.statistical
def test_restarts_draw_noise_of_their_own_with_the_right_law() -> None:
    # With a rate this small every loss is a draw of -log w at the start; its mean is the negative ELBO.
    result = fit(
        (latent, guide), Y, num_steps=100, learning_rate=1e-9, seed=0, restarts=Restarts(50, jitter=0.0)
    )
    losses = result.restart_losses
    log_normal = 0.5 * math.log(2 * math.pi)
    # E_q[-log p(y|z)] + KL(q|p) with q = N(0, 0.5^2)
    exact = 2 * log_normal + 0.5 * (1 + 4 + 2 * 0.25) + 0.5 * (0.25 - 1) - math.log(0.5)
    z = (losses.mean() - exact) / (losses.std() / losses.numel() ** 0.5)
    assert abs(float(z)) < 4.5
    correlation = torch.corrcoef(losses[:8])
    assert float((correlation - torch.eye(8)).abs().max()) < 0.5
    assert losses[:, 0].unique().numel() == 50


def test_one_restart_that_fails_is_frozen_and_harms_no_other() -> None:
    def model(y):
        w = pyro.param("w", torch.tensor(1.0))
        # log w fails once w passes 0, which the last restart does at once
        pyro.factor("f", w.log() - 5 * w * w)

    def initial(restart, values):
        return {"w": values["w"] if restart < 2 else torch.tensor(-0.5)}

    seen = []

    class Watch:
        def on_nan(self, error):
            seen.append(str(error))

    options = {"num_steps": 10, "learning_rate": 0.01, "objective": ELBO()}
    result = fit(
        (model, lambda y: None), Y, restarts=Restarts(3, initial=initial), callbacks=[Watch()], **options
    )
    assert dict(result.frozen) == {2: 0}
    assert len(seen) == 1
    assert "restart 2" in seen[0]
    assert result.restart(2).stopped == "frozen"
    assert float(result.restart(2).params["w"]) == -0.5
    alone = fit((model, lambda y: None), Y, **options)
    for number in (0, 1):
        torch.testing.assert_close(result.restart(number).losses, alone.losses, rtol=1e-6, atol=1e-6)
    assert result.best_restart in (0, 1)
    with pytest.raises(FitError, match="all 2 restarts failed"):
        fit(
            (model, lambda y: None), Y,
            restarts=Restarts(2, initial=lambda r, v: {"w": torch.tensor(-1.0)}),
            batches=lambda: (Y,), **options | {"learning_rate": 2.0},
        )  # fmt: skip


def test_a_frozen_restart_stays_where_it_failed_in_spite_of_its_momentum() -> None:
    def model():
        w = pyro.param("w", torch.tensor(1.0))
        pyro.factor("f", -torch.where(w < 0.0, math.nan, 1.0) * w)

    def initial(restart, values):
        return {"w": torch.tensor(0.045)}

    starts = Restarts(2, initial=initial)
    result = fit((model, lambda: None), num_steps=20, learning_rate=0.01, objective=ELBO(), restarts=starts)
    assert dict(result.frozen) == {1: 5}
    assert float(result.restart(1).params["w"]) == pytest.approx(-0.005, abs=1e-4)
    assert float(result.restart(0).params["w"]) == pytest.approx(0.8, abs=1e-4)
    assert result.best_restart == 0


def test_skip_leaves_out_one_update_of_one_restart() -> None:
    def model(bad, y):
        w = pyro.param("w", torch.tensor(1.0))
        pyro.factor("f", -((w - y) ** 2) - torch.where((w > 1.5) & bad, math.nan, 0.0))

    def batches(total=8):
        queue = iter([(torch.tensor(step == 3), torch.tensor(4.0)) for step in range(total)])
        return lambda: next(queue)

    def initial(restart, values):
        return {"w": torch.tensor(1.7)}

    options = {"num_steps": 8, "learning_rate": 0.01, "nan": "skip", "objective": ELBO(), "optimizer": sgd}
    nothing = lambda bad, y: None  # noqa: E731
    result = fit((model, nothing), batches=batches(), restarts=Restarts(2, initial=initial), **options)
    assert [result.restart(number).skipped for number in (0, 1)] == [0, 1]
    alone = fit((model, nothing), batches=batches(), **options)
    torch.testing.assert_close(result.restart(0).losses, alone.losses)

    def second(bad, y):
        pyro.param("w", torch.tensor(1.7))
        model(bad, y)

    alone = fit((second, nothing), batches=batches(), **options)
    torch.testing.assert_close(result.restart(1).losses, alone.losses, equal_nan=True)
    torch.testing.assert_close(result.restart(1).params["w"], alone.params["w"])


def test_the_held_out_loss_chooses_and_is_reported() -> None:
    def model(y):
        w = pyro.param("w", torch.tensor(0.0))
        pyro.factor("f", -((w - y) ** 2))

    def initial(restart, values):
        return {"w": torch.tensor(float(restart))}

    result = fit(
        (model, lambda y: None), torch.tensor(0.0), num_steps=2, learning_rate=1e-6, objective=ELBO(),
        restarts=Restarts(4, initial=initial), evaluation_args=(torch.tensor(2.0),),
    )  # fmt: skip
    assert result.best_restart == 2
    assert result.restart(0).evaluations.tolist() == [[2.0, pytest.approx(4.0)]]
    assert [float(result.restart(r).params["w"]) for r in range(4)] == pytest.approx([0, 1, 2, 3], abs=1e-4)


def test_schedules_and_constraints_with_restarts() -> None:
    options = {"num_steps": 30, "learning_rate": 0.05, "seed": 0, "kl_weight": linear(0.1, 1.0, 10)}
    result = fit((latent, guide), Y, restarts=6, **options)
    assert result.kl_weight == 1.0
    for number in range(6):
        assert float(result.restart(number).params["scale"]) > 0
    again = fit((latent, guide), Y, restarts=6, **options)
    assert torch.equal(result.restart_losses, again.restart_losses)
    with result.restart(3).scope():
        assert torch.equal(pyro.param("loc"), result.restart(3).params["loc"])


def test_starts_are_fresh_weights_and_jitter() -> None:
    model = net(norm=True)
    leaves = dict(model.named_parameters())
    before = {name: value.detach().clone() for name, value in leaves.items()}
    starts = initial_values(Restarts(200, jitter=0.3), leaves, Modules(model, nothing))
    assert all(torch.equal(value, before[name]) for name, value in leaves.items())
    assert all(torch.equal(starts[name][0], value) for name, value in before.items())
    weights = starts["net.0.weight"][1:]
    assert float(weights.abs().max()) <= 3**-0.5 + 1e-6  # torch's own law of a layer with 3 inputs
    assert float(weights.std()) == pytest.approx(3**-0.5 / 3**0.5, rel=0.1)
    assert float(starts["log_scale"][1:].std()) == pytest.approx(0.3, rel=0.2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"restarts": 0}, "restarts"),
        ({"restarts": Restarts(2, jitter=-1.0)}, "jitter"),
        ({"restarts": 2, "state": {"step": 0}}, "restarts=1, but restarts=2"),
        ({"state": {"restarts": 3}}, "restarts=3, but restarts=1"),
        ({"restarts": 2, "num_steps": 0}, "at least 1"),
        ({"restarts": Restarts(2, initial=lambda r, v: {})}, "restarts.initial"),
        ({"restarts": 2, "optimizer": lambda p, lr: torch.optim.LBFGS(p, lr=lr)}, "LBFGS couples"),
        ({"restarts": 2, "objective": Trace_ELBO()}, "cannot be recorded"),
    ],
)
def test_what_restarts_cannot_do_is_said(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit((latent, guide), Y, **{"num_steps": 2} | options)


def test_a_single_fit_has_no_restarts() -> None:
    with pytest.raises(ValueError, match="single fit"):
        fit((latent, guide), Y, num_steps=1).restart(0)
    with pytest.raises(ValueError, match=r"0 ... 1"):
        fit((latent, guide), Y, num_steps=1, restarts=2).restart(2)
