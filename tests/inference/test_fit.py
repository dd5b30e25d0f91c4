"""`fit`: it trains, it owns the store, it resumes bit for bit, and it says why it stopped."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import constraints

from evidentia.inference.fit import Fit, FitError, fit, restore
from evidentia.inference.training.finite import all_finite
from evidentia.inference.training.optimiser_state import flatten_optimiser, load_optimiser
from evidentia.inference.training.stopping import StoppingRule


def data(n: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3 * torch.randn(n, generator=generator)
    return x, y


def regression(x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal((b.unsqueeze(-2) * x).sum(-1), 0.3), obs=y)


def pair() -> tuple:
    return regression, AutoNormal(regression)


def momentum(params, lr):
    return torch.optim.SGD(params, lr=lr * 0.002, momentum=0.9)


OPTIMIZERS = {
    "adam": lambda params, lr: torch.optim.Adam(params, lr=lr, betas=(0.8, 0.99)),
    "amsgrad": lambda params, lr: torch.optim.Adam(params, lr=lr, amsgrad=True),
    "momentum": momentum,
    "clipped": pyro.optim.clipped_adam.ClippedAdam,
}


def same(one: Fit, two: Fit) -> bool:
    return (
        torch.equal(one.losses, two.losses)
        and one.params.keys() == two.params.keys()
        and all(torch.equal(one.params[k], two.params[k]) for k in one.params)
        and one.state.keys() == two.state.keys()
        and all(
            torch.equal(v, two.state[k]) if isinstance(v, torch.Tensor) else v == two.state[k]
            for k, v in one.state.items()
        )
    )


class Net(PyroModule):
    """A small network whose eight tensors are parameters of the model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, x, y=None):
        mean = self.layers(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            return pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)


def nothing(x, y=None):
    """A guide without latents."""


def test_two_pairs_in_sequence_both_train() -> None:
    x, y = data()
    moved = []
    for width in (4, 5):
        net = Net(width)
        before = {name: value.clone() for name, value in net.named_parameters()}
        fit((net, nothing), x, y, num_steps=3, seed=0)
        moved.append(sum(not torch.equal(value, before[name]) for name, value in net.named_parameters()))
    assert moved == [8, 8]
    assert not list(pyro.get_param_store().keys())


def test_finds_the_conjugate_posterior() -> None:
    x, y = data()
    precision = torch.eye(3) + x.T @ x / 0.09
    mean = torch.linalg.solve(precision, x.T @ y / 0.09)
    result = fit(
        pair(), x, y, objective=Trace_ELBO(num_particles=4), num_steps=600, learning_rate=0.03, seed=0,
        schedule=lambda step: 0.995**step,
    )  # fmt: skip
    assert torch.allclose(result.params["AutoNormal.locs.b"], mean, atol=0.03)
    assert torch.allclose(result.params["AutoNormal.scales.b"], precision.diag().rsqrt(), rtol=0.25)
    assert result.losses.dtype == torch.float64
    assert len(result.losses) == 600
    assert result.stopped == "max_steps"


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("particles", [1, 3])
def test_resume_is_bitwise(name: str, particles: int) -> None:
    x, y = data()
    options = {"learning_rate": 0.05, "optimizer": OPTIMIZERS[name], "tolerance": StoppingRule(1e-9, 1e-9, 7)}

    def objective():
        return Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1)

    whole = fit(pair(), x, y, num_steps=30, seed=3, objective=objective(), **options)
    part = fit(pair(), x, y, num_steps=11, seed=3, objective=objective(), **options)
    resumed = fit(pair(), x, y, num_steps=30, state=part.state, objective=objective(), **options)
    assert same(whole, resumed)


def test_resume_needs_the_optimizer_state_and_the_random_state() -> None:
    x, y = data()
    whole = fit(pair(), x, y, num_steps=30, seed=3, learning_rate=0.05)
    part = fit(pair(), x, y, num_steps=11, seed=3, learning_rate=0.05)
    without_optimizer = {
        k: v for k, v in part.state.items() if not k.startswith("opt/") or k.endswith("groups")
    }
    without_rng = dict(part.state) | {"rng/torch": torch.Generator().manual_seed(5).get_state()}
    for mutant in (without_optimizer, without_rng):
        resumed = fit(pair(), x, y, num_steps=30, state=mutant, learning_rate=0.05)
        assert not same(whole, resumed)
        assert not torch.equal(whole.losses, resumed.losses)


def test_resume_with_minibatches_schedule_and_running_statistics() -> None:
    x, y = data()

    class Normed(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.linear = nn.Linear(3, 1)

        def forward(self, x, y=None):
            mean = self.linear(self.norm(x)).squeeze(-1)
            with pyro.plate("data", 20, subsample=torch.arange(len(x))):
                pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)

    def batches():
        rows = torch.randperm(20)[:5]
        return x[rows], y[rows]

    torch.manual_seed(0)
    first, second = Normed(), Normed()
    second.load_state_dict(first.state_dict())
    options = {"batches": batches, "schedule": lambda step: 0.9**step}
    whole = fit((first, nothing), num_steps=12, seed=1, **options)
    part = fit((second, nothing), num_steps=5, seed=1, **options)
    resumed = fit((Normed(), nothing), num_steps=12, state=part.state, **options)
    assert same(whole, resumed)
    assert "buffer/model/norm.running_mean" in whole.state


def test_state_is_flat_tensors_and_json_scalars() -> None:
    import json

    x, y = data()
    state = fit(pair(), x, y, num_steps=2, seed=0).state
    tensors = {k for k, v in state.items() if isinstance(v, torch.Tensor)}
    json.dumps({k: v for k, v in state.items() if k not in tensors}, allow_nan=False)
    assert {"param/AutoNormal.locs.b", "rng/torch", "losses", "opt/AutoNormal.locs.b/0/exp_avg"} <= tensors
    assert state["step"] == 2


def test_seed_leaves_the_callers_generator_alone() -> None:
    x, y = data()
    torch.manual_seed(4)
    before = torch.get_rng_state()
    one = fit(pair(), x, y, num_steps=3, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert same(one, fit(pair(), x, y, num_steps=3, seed=0))
    assert not same(one, fit(pair(), x, y, num_steps=3, seed=1))


def test_state_of_another_pair_is_refused_before_anything_is_loaded() -> None:
    x, y = data()
    state = fit(pair(), x, y, num_steps=2, seed=0).state

    def guide(x, y=None):
        loc = pyro.param("other", torch.zeros(3))
        pyro.sample("b", dist.Normal(loc, 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"AutoNormal.locs.b.*other"):
        fit((regression, guide), x, y, num_steps=4, state=state)
    bent = dict(state) | {"param/AutoNormal.locs.b": torch.zeros(2)}
    fresh = pair()
    with pytest.raises(ValueError, match=r"'AutoNormal.locs.b' is \(2,\)"):
        fit(fresh, x, y, num_steps=4, state=bent)
    with pytest.raises(ValueError, match="already at step 2"):
        fit(pair(), x, y, num_steps=1, state=state)


def test_scope_lends_the_parameters_and_takes_them_back() -> None:
    x, y = data()
    model, guide = pair()
    first = fit((model, guide), x, y, num_steps=5, learning_rate=0.1, seed=0)
    second = fit((model, guide), x, y, num_steps=5, learning_rate=0.1, seed=0)
    name = "AutoNormal.locs.b"
    assert not torch.equal(first.params[name], second.params[name])
    for result in (first, second, first):
        with result.scope():
            assert torch.equal(guide.median()["b"], result.params[name])
            assert torch.equal(pyro.param(name), result.params[name])
    assert torch.equal(guide.median()["b"], second.params[name])
    net = Net(3)
    one = fit((net, nothing), x, y, num_steps=2, seed=0)
    trained = {k: v.detach().clone() for k, v in net.named_parameters()}
    fit((net, nothing), x, y, num_steps=2, seed=0)
    with one.scope():
        assert all(torch.equal(v, trained[k]) for k, v in net.named_parameters())
    assert not any(torch.equal(v, trained[k]) for k, v in net.named_parameters())


def test_restore_without_the_training_data() -> None:
    x, y = data()
    trained = fit(pair(), x, y, num_steps=5, seed=0)
    again = restore(pair(), trained.state, torch.zeros(4, 3), torch.zeros(4))
    assert same(trained, again)
    with again.scope():
        assert torch.equal(again.pair[1].median()["b"], trained.params["AutoNormal.locs.b"])


# -- numbers that fail


def breaking(failing: set[int], how: str = "loss"):
    """A pair whose loss (or gradient) fails at the given calls."""
    calls = {"n": 0}

    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("obs", dist.Normal(z, 1.0), obs=y)

    def guide(y):
        loc = pyro.param("loc", torch.tensor(0.5))
        if torch.is_grad_enabled():
            calls["n"] += 1
        bad = calls["n"] - 1 in failing
        if how == "loss":
            scale = torch.tensor(math.nan if bad else 1.0)
        elif how == "inf":
            loc, scale = loc * (math.inf if bad else 1.0), torch.tensor(1.0)
        else:
            # sqrt at zero: a finite value with an infinite gradient
            scale = 1.0 + ((loc - loc.detach()).sqrt() if bad else 0.0)
        pyro.sample("z", dist.Normal(loc, scale))

    return model, guide


Y = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("how", ["loss", "inf", "gradient"])
def test_stop_names_step_site_parameter_and_last_loss(how: str) -> None:
    seen = []

    class Watch:
        def on_nan(self, error):
            seen.append(error)

    clean = fit(breaking(set(), how), Y, num_steps=3, seed=0)
    with pytest.raises(FitError) as caught:
        fit(breaking({3}, how), Y, num_steps=9, seed=0, callbacks=[Watch()])
    error = caught.value
    assert seen == [error]
    assert error.step == 3
    assert error.last_finite_loss == float(clean.losses[-1])
    assert torch.equal(error.state["param/loc"], clean.state["param/loc"])
    if how == "gradient":
        assert error.parameters == ("loc",)
        assert error.sites == ()
    else:
        assert "z" in error.sites
    assert "step 3" in str(error)
    assert "learning_rate" in str(error)


def test_the_error_names_the_rows_of_the_batch() -> None:
    def model(y):
        w = pyro.param("w", torch.tensor(1.0))
        with pyro.plate("data", 10, subsample_size=4) as rows:
            pyro.sample("obs", dist.Normal(w, 1.0), obs=y[rows])

    y = torch.zeros(10)
    y[6] = math.inf
    with pytest.raises(FitError) as caught:
        fit((model, lambda y: None), y, num_steps=60, validate=False, seed=0)
    assert caught.value.culprits[0].rows == (6,)
    assert "'obs': its value has non-finite entries (batch rows 6)" in str(caught.value)


def test_validation_on_the_first_step_only() -> None:
    with pytest.raises(ValueError, match=r"obs|validate|support|Expected"):
        fit(breaking(set()), torch.tensor([math.nan]), num_steps=1)


@pytest.mark.parametrize("how", ["loss", "inf", "gradient"])
def test_skip_keeps_the_parameters_and_counts(how: str) -> None:
    optimizer = momentum
    result = fit(
        breaking({2, 4}, how), Y, num_steps=8, seed=0, nan="skip", validate=False, optimizer=optimizer
    )
    assert result.skipped == 2
    assert torch.isfinite(result.params["loc"])
    assert len(result.losses) == 8
    states = []
    fit(
        breaking({2}, how), Y, num_steps=3, seed=0, nan="skip", optimizer=optimizer, checkpoint_every=1,
        callbacks=[Checkpoints(states)],
    )  # fmt: skip
    same_keys = [k for k in states[1] if k.startswith(("param/", "opt/")) and k != "opt/param_groups"]
    assert len(same_keys) == 2
    assert all(torch.equal(states[1][k], states[2][k]) for k in same_keys)


class Checkpoints:
    def __init__(self, states: list) -> None:
        self.states = states

    def on_checkpoint(self, state) -> None:
        self.states.append(state)


def test_skip_does_not_pretend_when_every_step_failed() -> None:
    with pytest.raises(FitError, match="all 3 updates"):
        fit(breaking({0, 1, 2}), Y, num_steps=3, seed=0, nan="skip", validate=False)


def test_backoff_halves_the_rate_resumes_and_gives_up() -> None:
    rates = []
    options = {"nan": "backoff", "seed": 0, "learning_rate": 0.08}
    fit(breaking({1, 3}), Y, num_steps=5, callbacks=[lambda s: rates.append(s.learning_rate)], **options)
    assert rates == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02])
    part = fit(breaking({1}), Y, num_steps=3, **options)
    del options["seed"]
    rates.clear()
    fit(
        breaking(set()),
        Y,
        num_steps=4,
        state=part.state,
        callbacks=[lambda s: rates.append(s.learning_rate)],
        **options,
    )
    assert rates == pytest.approx([0.04])
    with pytest.raises(FitError) as caught:
        fit(breaking(set(range(2, 99))), Y, num_steps=50, max_failures=4, seed=0, **options)
    assert caught.value.step == 5


# -- why it stopped


def test_stopping_rule_needs_a_flat_bound_and_still_parameters() -> None:
    x, y = data()
    options = {"num_steps": 2000, "learning_rate": 0.02, "seed": 0, "objective": TraceMeanField_ELBO(4)}
    result = fit(pair(), x, y, tolerance=StoppingRule(loss=0.02, drift=0.02, window=50), **options)
    assert result.stopped == "converged"
    assert 100 <= len(result.losses) < 2000

    def flat_model():
        pass

    def drifting_guide():
        # The loss does not depend on where this parameter is, only its gradient does: it drifts for ever.
        drift = pyro.param("drift", torch.tensor(1.0))
        pyro.factor("still", drift - drift.detach(), has_rsample=True)

    result = fit((flat_model, drifting_guide), num_steps=100, tolerance=StoppingRule(0.1, 1e-3, 10), seed=0)
    assert result.stopped == "max_steps"
    result = fit((flat_model, drifting_guide), num_steps=100, tolerance=StoppingRule(0.1, 10.0, 10), seed=0)
    assert result.stopped == "converged"
    assert len(result.losses) == 20


def test_held_out_loss_is_recorded_and_does_not_touch_the_training() -> None:
    x, y = data(40)
    train, held = (x[:20], y[:20]), (x[20:], y[20:])
    plain = fit(pair(), *train, num_steps=20, seed=0)
    watched = fit(pair(), *train, num_steps=20, seed=0, evaluation_args=held, evaluate_every=5)
    assert torch.equal(plain.losses, watched.losses)
    assert watched.evaluations[:, 0].tolist() == [5, 10, 15, 20]
    assert watched.evaluations[-1, 1] < watched.evaluations[0, 1]


def test_other_reasons_to_stop() -> None:
    x, y = data()
    assert fit(pair(), x, y, num_steps=9, callbacks=[lambda s: s.step == 4]).stopped == "callback"
    told = fit(pair(), x, y, num_steps=9, callbacks=[lambda s: "signal" if s.step == 4 else None])
    assert (told.stopped, len(told.losses)) == ("signal", 4)
    assert fit(pair(), x, y, num_steps=10**6, max_seconds=0.05).stopped == "max_seconds"


def test_callbacks_see_every_hook_once() -> None:
    x, y = data()
    seen = []

    class All:
        def on_step(self, step):
            seen.append(("step", step.step))

        def on_checkpoint(self, state):
            seen.append(("checkpoint", state["step"]))

        def on_end(self, fit):
            seen.append(("end", fit.stopped))

        def on_nan(self, error):
            raise AssertionError

    fit(pair(), x, y, num_steps=2, checkpoint_every=2, callbacks=[All()])
    assert seen == [("step", 1), ("step", 2), ("checkpoint", 2), ("end", "max_steps")]


def test_late_parameters_are_trained_too() -> None:
    calls = []

    def model():
        calls.append(1)
        w = pyro.param("w", torch.tensor(1.0))
        total = -((w - 2.0) ** 2)
        if len(calls) > 3:
            total = total - (pyro.param("late", torch.tensor(1.0)) - 5.0) ** 2
        pyro.factor("f", total)

    result = fit((model, lambda: None), num_steps=8, learning_rate=0.1, seed=0)
    assert result.params["late"] > 1.2


def test_objectives_that_only_give_gradients_and_constrained_parameters() -> None:
    x, y = data()

    def model(x, y):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(x @ b, scale), obs=y)

    result = fit(
        (model, AutoNormal(model)), x, y, objective=RenyiELBO(alpha=0.0, num_particles=2), num_steps=50,
        learning_rate=0.05, seed=0,
    )  # fmt: skip
    assert 0 < result.params["scale"] < 0.95
    assert result.state["param/scale"] == pytest.approx(float(result.params["scale"].log()))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_steps": -1}, "num_steps"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"nan": "ignore"}, "'skip'"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": StoppingRule(window=1)}, "window"),
        ({"max_failures": 0}, "max_failures"),
    ],
)
def test_bad_settings_are_named(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit(pair(), *data(), **options)


def test_a_pair_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="AutoNormal"):
        fit((lambda: None, lambda: None), num_steps=1)


def test_an_infinite_loss_with_finite_gradients_counts_as_failed() -> None:
    assert not all_finite(math.inf, [torch.ones(2)])
    assert not all_finite(1.0, [torch.ones(2), torch.tensor([math.nan])])
    assert all_finite(1.0, [torch.ones(2), None])


def test_betas_are_a_tuple_again() -> None:
    weight = torch.zeros(2, requires_grad=True)
    one, two = torch.optim.Adam([weight]), torch.optim.Adam([weight], betas=(0.5, 0.6))
    weight.sum().backward()
    one.step()
    load_optimiser(two, flatten_optimiser(one, ["a/b"]))
    assert two.param_groups[0]["betas"] == (0.9, 0.999)
    assert isinstance(two.param_groups[0]["betas"], tuple)
    with pytest.raises(ValueError, match="groups"):
        load_optimiser(torch.optim.Adam([weight, weight.clone().detach()]), flatten_optimiser(one, ["a/b"]))


def test_a_skipped_step_leaves_running_statistics_as_they_were() -> None:
    class Normed(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x, y=None):
            with pyro.plate("data", len(x)):
                pyro.sample("obs", dist.Normal(self.norm(x).sum(-1), 1.0), obs=y)

    x, y = data()
    bad = x.clone()
    bad[2, 1] = math.nan
    net, given = Normed(), iter([(x, y), (bad, y), (x, y)])
    states: list = []
    result = fit(
        (net, nothing), num_steps=3, nan="skip", batches=lambda: next(given), checkpoint_every=1,
        callbacks=[Checkpoints(states)],
    )  # fmt: skip
    assert result.skipped == 1
    name = "buffer/model/norm.running_mean"
    assert torch.equal(states[0][name], states[1][name])
    assert bool(torch.isfinite(result.state[name]).all())
    assert not torch.equal(states[1][name], states[2][name])
