"""Each restart stops, backs off and is continued on its own."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from evidentia.inference.fit import FitError, fit
from evidentia.inference.objectives.presets import ELBO
from evidentia.inference.training.patience import Best, update_best
from evidentia.inference.training.restart_rules import Bests, Windows, update_bests, update_windows
from evidentia.inference.training.schedules import linear
from evidentia.inference.training.starts import Restarts
from evidentia.inference.training.stopping import StoppingRule, Window, update_window
from evidentia.studies.harness.storage.checkpoint import FolderCheckpoints

Y = torch.tensor([1.0, 2.0, -0.5])


class Encoder(nn.Module):
    """With a running statistic, so that the state has buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.line = nn.Linear(1, 1)

    def forward(self, y):
        return self.line(self.norm(y[:, None])).squeeze(-1)


def latent(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(z, 1.0), obs=y)


def pair():
    torch.manual_seed(3)
    encoder = Encoder()

    def guide(y):
        pyro.module("encoder", encoder)
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(y)):
            pyro.sample("z", dist.Normal(encoder(y), scale))

    return latent, guide


def rows() -> tuple[Tensor]:
    return (torch.randn(4),)


class Keep:
    """Keeps the states it is given."""

    def __init__(self) -> None:
        self.states: dict[int, dict] = {}

    def on_checkpoint(self, state):
        self.states[state["step"]] = state


def same(one: dict, two: dict) -> None:
    assert set(one) == set(two)
    for key, value in one.items():
        if isinstance(value, Tensor):
            assert torch.equal(value.nan_to_num(7e77), two[key].nan_to_num(7e77)), key
        else:
            assert value == two[key], key


SETTINGS = {
    "plain": {},
    "rules": {
        "tolerance": StoppingRule(0.3, 0.5, 3), "evaluation_args": (Y,), "evaluate_every": 2, "patience": 2,
    },
    "schedules": {"kl_weight": linear(0.1, 1.0, 10), "schedule": linear(1.0, 0.1, 15), "nan": "backoff"},
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "rules",
        pytest.param("plain", marks=pytest.mark.slow),
        pytest.param("schedules", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_of_restarts_continues_bitwise(name: str, tmp_path) -> None:
    keep = Keep()
    options = {"batches": rows, "restarts": 3, "learning_rate": 0.05} | SETTINGS[name]
    whole = fit(pair(), num_steps=16, seed=1, checkpoint_every=5, callbacks=[keep], **options)
    last = whole.restarts_state["step"]
    assert sorted(keep.states) == [step for step in (5, 10, 15) if step <= last]
    store = FolderCheckpoints(tmp_path, settings="x")
    store.save(keep.states[5])
    again = store.load()
    same(again, keep.states[5])
    continued = fit(pair(), num_steps=16, state=again, **options)
    same(continued.restarts_state, whole.restarts_state)
    assert continued.best_restart == whole.best_restart
    for number in range(3):
        same(continued.restart(number).state, whole.restart(number).state)
        assert continued.restart(number).stopped == whole.restart(number).stopped
    if name == "plain":  # so does one that was cut short by its number of steps
        part = fit(pair(), num_steps=4, seed=1, **options).restarts_state
        same(fit(pair(), num_steps=16, state=part, **options).restarts_state, whole.restarts_state)
    if name == "rules":
        assert {whole.restart(number).stopped for number in range(3)} & {"converged", "patience"}


def test_states_that_do_not_fit_are_refused() -> None:
    part = fit(pair(), Y, num_steps=2, seed=0, restarts=2)
    state = part.restarts_state
    with pytest.raises(ValueError, match="restarts=2, but restarts=1"):
        fit(pair(), Y, num_steps=4, state=state)
    with pytest.raises(ValueError, match="restarts=2, but restarts=3"):
        fit(pair(), Y, num_steps=4, state=state, restarts=3)
    with pytest.raises(ValueError, match="already at step 2"):
        fit(pair(), Y, num_steps=1, state=state, restarts=2)
    lacking = {name: value for name, value in state.items() if name != "param/scale"}
    with pytest.raises(ValueError, match="does not fit the pair"):
        fit(pair(), Y, num_steps=4, restarts=2, state=lacking)
    with pytest.raises(ValueError, match="'param/scale' is"):
        fit(pair(), Y, num_steps=4, restarts=2, state=state | {"param/scale": torch.zeros(2, 2)})
    # One restart goes on alone.
    alone = fit(pair(), Y, num_steps=4, state=part.restart(1).state, objective=ELBO())
    assert len(alone.losses) == 4


# -- a failure of one


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.5)


def fragile(bad, y):
    """NaN in a bad batch for a restart whose w is above 1.5."""
    w = pyro.param("w", torch.tensor(1.0))
    pyro.factor("f", -((w - y) ** 2) - torch.where((w > 1.5) & bad, math.nan, 0.0))


def nothing(bad, y):
    """A guide without latents."""


def bad_at(*steps: int):
    queue = iter([(torch.tensor(step in steps), torch.tensor(4.0)) for step in range(50)])
    return lambda: next(queue)


def second(restart, values):
    return {"w": torch.tensor(1.7)}


@pytest.mark.parametrize("optimizer", [sgd, torch.optim.Adam], ids=["sgd", "adam"])
def test_a_failure_halves_the_rate_of_that_restart_alone(optimizer) -> None:
    options = {"num_steps": 12, "learning_rate": 0.003, "nan": "backoff", "objective": ELBO()}
    options |= {"optimizer": optimizer}
    found = fit((fragile, nothing), batches=bad_at(3, 6), restarts=Restarts(2, initial=second), **options)
    assert [found.restart(r).state["learning_rate_scale"] for r in (0, 1)] == [1.0, 0.25]
    assert [found.restart(r).skipped for r in (0, 1)] == [0, 2]
    assert not found.frozen

    def alone(start):
        def model(bad, y):
            pyro.param("w", torch.tensor(start))
            fragile(bad, y)

        return fit((model, nothing), batches=bad_at(3, 6), **options)

    for number, start in enumerate((1.0, 1.7)):
        one = alone(start)
        # Adam counts a step that one restart left out for all of them, which moves its bias correction.
        close = (
            {"rtol": 1e-5, "atol": 1e-6} if optimizer is sgd or number == 0 else {"rtol": 0.02, "atol": 0.02}
        )
        torch.testing.assert_close(found.restart(number).losses, one.losses, equal_nan=True, **close)
        torch.testing.assert_close(found.restart(number).params["w"], one.params["w"], **close)


def test_a_restart_that_fails_too_often_in_a_row_is_frozen() -> None:
    options = {"learning_rate": 0.01, "nan": "backoff", "objective": ELBO(), "optimizer": sgd}
    starts = Restarts(2, initial=second)
    found = fit(
        (fragile, nothing),
        batches=bad_at(2, 4, 5, 6),
        num_steps=9,
        max_failures=3,
        restarts=starts,
        **options,
    )
    assert dict(found.frozen) == {1: 6}
    assert found.restart(1).stopped == "frozen"
    assert found.restart(0).stopped == "max_steps"
    assert found.best_restart == 0
    fine = fit(
        (fragile, nothing),
        batches=bad_at(2, 4, 6, 7),
        num_steps=9,
        max_failures=3,
        restarts=starts,
        **options,
    )
    assert not fine.frozen
    with pytest.raises(FitError, match="all 2 restarts failed"):
        fit(
            (fragile, nothing), batches=bad_at(*range(9)), num_steps=9, max_failures=2,
            restarts=Restarts(2, initial=second), **options | {"learning_rate": 0.4},
        )  # fmt: skip


# -- stopping


def test_a_converged_restart_is_held_and_the_others_go_on() -> None:
    def model():
        w = pyro.param("w", torch.tensor(3.0))
        pyro.factor("f", -((w - 3.0) ** 2))

    starts = Restarts(3, initial=lambda restart, values: {"w": torch.tensor(3.0 + 40.0 * restart)})
    options = {"learning_rate": 0.02, "objective": ELBO(), "optimizer": torch.optim.SGD}
    options |= {"tolerance": StoppingRule(1e-3, 1e-3, 5)}
    found = fit((model, lambda: None), num_steps=60, restarts=starts, **options)
    assert [found.restart(r).stopped for r in range(3)] == ["converged", "max_steps", "max_steps"]
    assert len(found.restart(0).losses) == 10
    assert found.restart(0).state["step"] == 10
    assert bool(torch.isnan(found.restart_losses[0, 10:]).all())
    assert bool(torch.isfinite(found.restart_losses[1:]).all())
    assert found.best_restart == 0
    assert found.stopped == "converged"
    # Long enough, all are held and the run ends there; each like a fit by itself.
    long = fit((model, lambda: None), num_steps=2000, restarts=starts, **options)
    assert {long.restart(r).stopped for r in range(3)} == {"converged"}
    steps = [len(long.restart(r).losses) for r in range(3)]
    assert long.restarts_state["step"] == max(steps) < 2000

    for number, count in enumerate(steps):

        def alone(number=number):
            pyro.param("w", torch.tensor(3.0 + 40.0 * number))
            model()

        single = fit((alone, lambda: None), num_steps=2000, **options)
        assert (len(single.losses), single.stopped) == (count, "converged")
        torch.testing.assert_close(single.losses, long.restart(number).losses, rtol=1e-4, atol=1e-6)


def test_patience_is_lost_by_one_and_puts_back_its_best_parameters() -> None:
    def model(target):
        w = pyro.param("w", torch.tensor(0.0))
        pyro.factor("f", -((w - target) ** 2))

    # Trained towards 10 and held out at 0: one that starts at 0 only gets worse, one at -3 gets better.
    starts = Restarts(3, initial=lambda restart, values: {"w": torch.tensor([0.0, -3.0, -0.35][restart])})
    options = {"learning_rate": 0.05, "objective": ELBO(), "optimizer": torch.optim.Adam}
    options |= {"evaluation_args": (torch.tensor(0.0),), "evaluate_every": 3, "patience": 2}
    found = fit((model, lambda t: None), torch.tensor(10.0), num_steps=30, restarts=starts, **options)
    assert [found.restart(r).stopped for r in (0, 1)] == ["patience", "max_steps"]
    assert found.restart(0).best_step == 3
    assert len(found.restart(0).losses) == 9
    assert found.restart(0).evaluations[:, 0].tolist() == [3.0, 6.0, 9.0]
    assert found.restart(1).evaluations[:, 0].tolist() == [3.0 * k for k in range(1, 11)]
    single = fit((model, lambda t: None), torch.tensor(10.0), num_steps=30, **options)
    assert single.stopped == "patience"
    torch.testing.assert_close(found.restart(0).params["w"], single.params["w"])
    torch.testing.assert_close(found.restart(0).evaluations, single.evaluations)
    # The third passes 0 between: it is past its best, and moves on, when the first is put back.
    assert (found.restart(2).stopped, found.restart(2).best_step) == ("patience", 6)
    assert found.restart(2).evaluations[:, 1].tolist() == pytest.approx(
        [0.04, 0.0025, 0.01, 0.0625], abs=0.01
    )
    assert found.best_restart == 2
    assert found.stopped == "patience"
    assert float(found.restart(1).params["w"]) == pytest.approx(-1.5, abs=0.1)


def test_rules_in_rows_are_the_rules_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    rule, number = StoppingRule(0.4, 0.4, 3), 4
    losses = torch.randn(24, number, generator=generator, dtype=torch.float64) * torch.tensor(
        [0.0, 0.3, 1, 3]
    )
    losses[4, 1] = math.nan
    vectors = torch.ones(number, 5) + 0.2 * torch.randn(24, number, 5, generator=generator).double()
    windows, singles = Windows.fresh(vectors[0]), [Window()] * number
    seen = 0
    for step in range(24):
        loss = None if 9 <= step < 12 else losses[step]
        windows, converged = update_windows(rule, windows, loss, vectors[step])
        for r in range(number):
            one = None if loss is None else float(loss[r])
            singles[r], single = update_window(rule, singles[r], one, vectors[step, r])
            assert single == bool(converged[r])
            seen += single
            mine = windows.row(r)
            assert (mine.steps, mine.loss_count) == (singles[r].steps, singles[r].loss_count)
            assert mine.previous_loss == pytest.approx(singles[r].previous_loss)
        same(Windows.from_state(windows.to_state()).to_state(), windows.to_state())
    assert 0 < seen < 24
    bests, alone = Bests.fresh(number), [Best()] * number
    for step in range(24):
        watched = torch.arange(number) != step % 5
        live = {"param/w": vectors[step]}
        bests = update_bests(bests, losses[step], step, live, watched)
        for r in range(number):
            if watched[r]:
                alone[r] = update_best(alone[r], float(losses[step, r]), step, {"param/w": vectors[step, r]})
            mine = bests.row(r)
            if alone[r].step is not None:
                assert (mine.loss, mine.step, mine.since) == alone[r][:3]
                assert torch.equal(mine.values["param/w"], alone[r].values["param/w"])
    same(Bests.from_state(bests.to_state(), number).to_state(), bests.to_state())
