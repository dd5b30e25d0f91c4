"""`fit` on a recorded step: the losses, the resume and the failures of the eager fit."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from evidentia.inference.compile.capture import CaptureError
from evidentia.inference.compile.objective import compile_objective
from evidentia.inference.fit import Fit, FitError, fit
from evidentia.inference.objectives.presets import ELBO, IWAE, STL, DReG
from evidentia.inference.training.stopping import StoppingRule


def data(n: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=generator)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3 * torch.randn(n, generator=generator)


class Decoder(PyroModule):
    """Bernoulli pixels given two latents."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.net(z)).to_event(1), obs=x)


class Encoder(PyroModule):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        middle = nn.BatchNorm1d(8) if norm else nn.Tanh()
        self.encode = nn.Sequential(nn.Linear(6, 8), middle, nn.Linear(8, 4))

    def forward(self, x):
        loc, raw = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class SameNames(PyroModule):
    """An encoder whose network has the name of the decoder's."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 4))

    def forward(self, x):
        loc, raw = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def vae(norm: bool = False):
    torch.manual_seed(7)
    return Decoder(), Encoder(norm)


def pixels(n: int = 12) -> torch.Tensor:
    return torch.bernoulli(torch.full((n, 6), 0.4), generator=torch.Generator().manual_seed(2))


def same(one: Fit, two: Fit) -> bool:
    return one.state.keys() == two.state.keys() and all(
        torch.allclose(v, two.state[k], rtol=0, atol=0, equal_nan=True)
        if isinstance(v, torch.Tensor)
        else v == two.state[k]
        for k, v in one.state.items()
    )


@pytest.mark.parametrize("make", [ELBO, lambda: IWAE(3), lambda: DReG(3), STL])
def test_equal_seeds_give_the_eager_losses_for_fifty_steps(make) -> None:
    x = pixels()
    eager = fit(vae(), x, objective=make(), num_steps=50, seed=1)
    recorded = fit(vae(), x, objective=make(), num_steps=50, seed=1, compile="aten")
    torch.testing.assert_close(recorded.losses, eager.losses, rtol=1e-6, atol=0.0)
    blocks = fit(vae(), x, objective=make(), num_steps=50, seed=1, compile="aten", steps_per_call=16)
    assert torch.equal(blocks.losses, recorded.losses)
    assert same(blocks, recorded)


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_resume_of_a_recorded_fit_is_bitwise(steps_per_call: int) -> None:
    x = pixels(30)

    def batches():
        # The sizes 5 and 10 alternate by chance: two graphs.
        size = 5 if torch.rand(()) < 0.5 else 10
        return (x[torch.randperm(30)[:size]],)

    options = {
        "batches": batches, "compile": "aten", "steps_per_call": steps_per_call, "seed": 3,
        "tolerance": StoppingRule(1e-9, 1e-9, 7), "schedule": lambda step: 0.95**step,
    }  # fmt: skip
    whole = fit(vae(norm=True), num_steps=25, **options)
    part = fit(vae(norm=True), num_steps=12, **options)
    resumed = fit(vae(norm=True), num_steps=25, state=part.state, **options)
    assert same(whole, resumed)
    eager = fit(vae(norm=True), num_steps=25, **options | {"compile": None, "objective": ELBO()})
    torch.testing.assert_close(whole.losses, eager.losses, rtol=1e-6, atol=0.0)
    name = "buffer/guide/encode.1.running_mean"
    torch.testing.assert_close(whole.state[name], eager.state[name])
    assert whole.state["buffer/guide/encode.1.num_batches_tracked"] == 25


def test_the_default_objective_of_a_recorded_fit_is_the_default_elbo() -> None:
    x = pixels()
    eager = fit(vae(), x, num_steps=10, seed=1)
    recorded = fit(vae(), x, num_steps=10, seed=1, compile="aten")
    torch.testing.assert_close(recorded.losses[1:], eager.losses[1:], rtol=0.2, atol=0.0)
    with pytest.raises(ValueError, match="RenyiELBO has no differentiable_loss"):
        fit(vae(), x, num_steps=1, objective=RenyiELBO(), compile="aten")


def test_what_cannot_be_recorded_is_fitted_eagerly_with_one_warning() -> None:
    x = pixels()
    eager = fit(vae(), x, num_steps=8, seed=1, objective=Trace_ELBO())
    with pytest.warns(UserWarning, match="runs eagerly"):
        fallen = fit(vae(), x, num_steps=8, seed=1, objective=Trace_ELBO(), compile="aten", steps_per_call=4)
    assert same(eager, fallen)


def test_check_every_in_a_fit() -> None:
    box = {"scale": torch.tensor(1.0)}

    def model():
        w = pyro.param("w", torch.tensor(1.0))
        pyro.factor("f", -w * w * box["scale"])

    def change(step):
        if step.step == 6:
            box["scale"] = torch.tensor(2.0)

    for steps_per_call in (1, 3):
        box["scale"] = torch.tensor(1.0)
        objective = compile_objective(ELBO(), check_every=4)
        with pytest.raises(CaptureError, match="differs"):
            fit(
                (model, lambda: None), num_steps=12, objective=objective, callbacks=[change],
                steps_per_call=steps_per_call,
            )  # fmt: skip


def test_two_networks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"net.0.weight.*attribute name"):
        fit((Decoder(), SameNames()), pixels(), num_steps=1)


# -- failures


def failing(how: str = "loss"):
    """A pair that fails where the batch says so."""

    def model(y, bad):
        w = pyro.param("w", torch.tensor(0.5))
        loss = (w - y).square().sum() + w * torch.randn(())
        if how == "loss":
            loss = loss + torch.where(bad, math.nan, 0.0)
        else:
            # sqrt at zero: a finite value with an infinite gradient
            loss = loss + (w - w.detach() + torch.where(bad, 0.0, 1.0)).sqrt()
        pyro.factor("f", -loss)

    return model, lambda y, bad: None


def batch_queue(failing_steps: set[int], total: int = 40):
    queue = iter([(torch.tensor([1.0, 2.0]), torch.tensor(step in failing_steps)) for step in range(total)])
    return lambda: next(queue)


@pytest.mark.parametrize("nan", ["skip", "backoff"])
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_failure_inside_a_block_is_handled_at_its_step(nan: str, how: str) -> None:
    runs = [
        fit(
            failing(how), batches=batch_queue({5, 9}), num_steps=16, seed=0, nan=nan, objective=ELBO(),
            compile="aten", steps_per_call=block, learning_rate=0.1,
        )
        for block in (1, 8)
    ]  # fmt: skip
    assert runs[1].skipped == 2
    assert same(*runs)
    failed = [] if how == "gradient" else [5, 9]
    assert (~torch.isfinite(runs[1].losses)).nonzero().flatten().tolist() == failed


def test_stop_names_the_step_inside_a_block() -> None:
    seen = []

    class Watch:
        def on_nan(self, error):
            seen.append(error.step)

    with pytest.raises(FitError) as caught:
        fit(
            failing(), batches=batch_queue({11}), num_steps=20, objective=ELBO(), compile="aten",
            steps_per_call=8, callbacks=[Watch()], seed=0,
        )  # fmt: skip
    assert caught.value.step == 11
    assert seen == [11]
    assert len(caught.value.state["losses"]) == 11
    clean = fit(failing(), batches=batch_queue(set()), num_steps=11, objective=ELBO(), compile="aten", seed=0)
    assert torch.equal(caught.value.state["param/w"], clean.state["param/w"])


def test_a_block_that_failed_is_taken_again_with_the_same_noise() -> None:
    def model():
        w = pyro.param("w", torch.tensor(1.0))
        pyro.factor("f", -torch.where(w < 0.5, math.nan, 1.0) * (w + 0.1 * w * torch.randn(())))

    states = []
    for block in (1, 8):
        with pytest.raises(FitError) as caught:
            fit(
                (model, lambda: None), num_steps=40, learning_rate=0.04, seed=0, objective=ELBO(),
                compile="aten", steps_per_call=block,
            )  # fmt: skip
        states.append(caught.value.state)
    assert states[0]["step"] == states[1]["step"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in ("losses", "param/w", "rng/torch"))


def test_callbacks_rules_and_checkpoints_come_between_blocks() -> None:
    x = pixels()
    seen, states = [], []

    class Watch:
        def on_step(self, step):
            seen.append(step.step)

        def on_checkpoint(self, state):
            states.append(state["step"])

    result = fit(
        vae(), x, num_steps=20, seed=0, compile="aten", steps_per_call=8, callbacks=[Watch()],
        checkpoint_every=10, evaluation_args=(x,), evaluate_every=12,
    )  # fmt: skip
    assert seen == [1, 8, 10, 12, 16, 20]
    assert states == [10, 20]
    assert result.evaluations[:, 0].tolist() == [12]


# -- optimizers


def test_the_default_is_one_fused_adam() -> None:
    found = []

    def spy(parameters, lr):
        from evidentia.inference.training.optimiser import adam

        found.append(adam(parameters, lr))
        return found[0]

    x = pixels()
    one = fit(vae(), x, num_steps=5, seed=0)
    two = fit(vae(), x, num_steps=5, seed=0, optimizer=spy)
    assert same(one, two)
    assert [len(group["params"]) for group in found[0].param_groups] == [8]
    assert found[0].param_groups[0]["fused"]
    plain = fit(vae(), x, num_steps=5, seed=0, optimizer=torch.optim.Adam)
    torch.testing.assert_close(plain.losses, one.losses, rtol=1e-5, atol=0.0)


def lbfgs(parameters, lr):
    return torch.optim.LBFGS(parameters, lr=lr, max_iter=5, line_search_fn="strong_wolfe")


def line(x, y):
    b = pyro.param("b", torch.zeros(3))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal((b * x).sum(-1), 1.0), obs=y)


@pytest.mark.parametrize("compile", [None, "aten"])
def test_lbfgs_solves_least_squares_in_a_few_steps(compile) -> None:
    x, y = data()
    result = fit(
        (line, lambda x, y: None), x, y, num_steps=5, learning_rate=1.0, optimizer=lbfgs, objective=ELBO(),
        compile=compile, steps_per_call=1 if compile is None else 4,
    )  # fmt: skip
    exact = torch.linalg.lstsq(x, y.unsqueeze(-1)).solution.squeeze(-1)
    torch.testing.assert_close(result.params["b"], exact, rtol=1e-4, atol=1e-4)


def test_lbfgs_sees_one_noise_a_step_and_resumes_bitwise() -> None:
    def regression(x, y):
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal((b * x).sum(-1), 0.3), obs=y)

    x, y = data()
    options = {"optimizer": lbfgs, "learning_rate": 0.5, "seed": 2, "objective": ELBO(8)}
    whole = fit((regression, AutoNormal(regression)), x, y, num_steps=8, **options)
    part = fit((regression, AutoNormal(regression)), x, y, num_steps=3, **options)
    del options["seed"]
    resumed = fit((regression, AutoNormal(regression)), x, y, num_steps=8, state=part.state, **options)
    assert same(whole, resumed)
    assert whole.losses[-1] < whole.losses[0] - 50
    adam_draws = fit((regression, AutoNormal(regression)), x, y, num_steps=8, seed=2, objective=ELBO(8))
    assert torch.equal(adam_draws.state["rng/torch"], whole.state["rng/torch"])


def test_all_evaluations_of_one_lbfgs_step_see_the_same_noise() -> None:
    def model():
        w = pyro.param("w", torch.tensor(0.0))
        pyro.factor("f", -((w - 3.0) ** 2) + 10.0 * torch.randn(()) * w)

    result = fit(
        (model, lambda: None), num_steps=1, seed=4, learning_rate=1.0, optimizer=lbfgs, objective=ELBO()
    )
    torch.manual_seed(4)
    assert float(result.params["w"]) == pytest.approx(3.0 + 5.0 * float(torch.randn(())), rel=1e-3)


def test_lbfgs_that_runs_away_is_put_back() -> None:
    def model(y):
        w = pyro.param("w", torch.tensor(1.0))
        pyro.factor("f", 1e30 * w.pow(3) * y)

    def wild(parameters, lr):
        return torch.optim.LBFGS(parameters, lr=1e30, max_iter=3)

    with pytest.raises(FitError):
        fit((model, lambda y: None), torch.tensor(1.0), num_steps=4, optimizer=wild, objective=ELBO())


# -- bad settings


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"compile": "jit"}, "'aten' or 'inductor'"),
        ({"steps_per_call": 0}, "steps_per_call"),
        ({"patience": 0}, "patience"),
        ({"patience": 2}, "evaluation_args"),
    ],
)
def test_bad_settings_are_named(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit(vae(), pixels(), **options)


def test_no_warning_from_torch_reaches_the_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(vae(), pixels(), num_steps=4, compile="aten", steps_per_call=2)
