"""TensorBoard and MLflow: what they write, read back by their own readers; what happens without them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evidentia.inference.training.callbacks import Step, notify
from evidentia.studies.harness.cli import main
from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.extras import require
from evidentia.studies.harness.loggers.choose import check_loggers
from evidentia.studies.harness.loggers.mlflow import MLflow, sqlite_uri
from evidentia.studies.harness.loggers.tensorboard import TensorBoard


def steps(first: int, last: int, total: int = 12) -> list[Step]:
    return [
        Step(k, total, 100.0 - k, 200.0 - k, 0.1 / k, 0, None if k < 6 else 50.0) for k in range(first, last)
    ]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    # Values come back as tensors where TensorBoard migrated them on reading.
    return {
        tag: [(event.step, float(event.tensor_proto.float_val[0])) for event in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    } | {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def metrics(uri: str, experiment: str, name: str) -> tuple[str, list[tuple[int, float]]]:
    client = require("mlflow", "mlflow.tracking").MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    history = client.get_metric_history(run.info.run_id, name)
    return run.info.status, sorted((each.step, each.value) for each in history)


def test_tensorboard_has_every_fifth_step_the_first_and_the_last(tmp_path):
    logger = TensorBoard(tmp_path / "a" / "curves", every=5)
    for step in steps(1, 13):
        assert notify([logger], "on_step", step) is None
    notify([logger], "on_end", None)
    found = curves(tmp_path / "a" / "curves")
    assert set(found) == {"loss", "smoothed_loss", "learning_rate", "held_out_loss"}
    assert found["loss"] == [(1, 99.0), (5, 95.0), (10, 90.0), (12, 88.0)]
    assert found["smoothed_loss"][-1] == (12, 188.0)
    assert found["held_out_loss"] == [(10, 50.0), (12, 50.0)]
    assert found["learning_rate"][1][1] == pytest.approx(0.02)


def test_a_resumed_training_takes_back_the_steps_it_takes_again(tmp_path):
    first = TensorBoard(tmp_path, every=1)
    for step in steps(1, 9):
        first.on_step(step)
    first.finish(complete=False)
    again = TensorBoard(tmp_path, every=1)
    for step in steps(6, 13):  # the last checkpoint was at step 5
        again.on_step(step)
    again.finish()
    assert [step for step, _ in curves(tmp_path)["loss"]] == list(range(1, 13))


def test_what_is_not_finite_is_left_out_and_n_must_be_positive(tmp_path):
    logger = TensorBoard(tmp_path, every=1)
    logger.on_step(Step(1, 2, math.nan, 1.0, 0.1, 1, None))
    logger.finish()
    logger.finish()
    assert set(curves(tmp_path)) == {"smoothed_loss", "learning_rate"}
    with pytest.raises(StudyError, match="every: given 0, expected"):
        TensorBoard(tmp_path, every=0)


def test_fit_writes_its_own_losses(tmp_path):
    import pyro
    from pyro.distributions import Normal
    from pyro.infer.autoguide import AutoNormal

    from evidentia.inference.fit import fit

    def model(y):
        mean = pyro.sample("mean", Normal(0.0, 10.0))
        with pyro.plate("data", len(y)):
            pyro.sample("obs", Normal(mean, 1.0), obs=y)

    y = torch.tensor([1.0, 2.0])
    plain = fit((model, AutoNormal(model)), y, num_steps=7, seed=0)
    logger = TensorBoard(tmp_path, every=3)
    seen = fit((model, AutoNormal(model)), y, num_steps=7, seed=0, callbacks=[logger])
    assert torch.equal(plain.losses, seen.losses)  # watching changes nothing
    found = curves(tmp_path)["loss"]
    assert [step for step, _ in found] == [1, 3, 6, 7]
    for step, value in found:
        assert value == pytest.approx(float(seen.losses[step - 1]), rel=1e-6)


@pytest.mark.slow  # MLflow makes its database for most of it
def test_mlflow_has_the_same_and_a_resume_goes_on_in_the_same_run(tmp_path):
    uri = sqlite_uri(tmp_path / "mlflow.db")
    first = MLflow(uri, "mine", "point", {"width": "2"}, every=2)
    for step in steps(1, 8):
        first.on_step(step)
    first.finish(complete=False)
    assert metrics(uri, "mine", "loss") == (
        "RUNNING",
        [(1, 99.0), (2, 98.0), (4, 96.0), (6, 94.0), (7, 93.0)],
    )
    again = MLflow(uri, "mine", "point", {"width": "2"}, every=2)
    for step in steps(6, 13):
        again.on_step(step)
    again.on_end(None)
    status, found = metrics(uri, "mine", "loss")
    assert status == "FINISHED"
    assert [step for step, _ in found] == [1, 2, 4, 6, 7, 8, 10, 12]
    assert metrics(uri, "mine", "held_out_loss")[1][-1] == (12, 50.0)


def test_mlflow_refuses_a_plain_folder_and_a_server_that_is_not_there(tmp_path, monkeypatch):
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        with pytest.raises(StudyError, match=r"expected sqlite:///FILE .* Fix: sqlite:///"):
            MLflow(uri)
    (tmp_path / "mlflow.db").write_text("no database")
    logger = MLflow(sqlite_uri(tmp_path / "mlflow.db"))
    with pytest.raises(StudyError, match=r"MLflow at sqlite.*Fix: give another uri"):
        logger.on_step(steps(1, 2)[0])


def regression(data):
    import pyro
    from pyro.distributions import Normal

    def model(x, y=None):
        w = pyro.sample("w", Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            return pyro.sample("obs", Normal(w.unsqueeze(-1) * x[:, 0], 0.5), obs=y)

    return model


def normal_guide(model):
    from pyro.infer.autoguide import AutoNormal

    return AutoNormal(model)


@pytest.mark.slow
@pytest.mark.usefixtures("registries")
def test_a_run_writes_a_curve_for_each_point_beside_its_csv(tmp_path):
    import pandas as pd

    from evidentia.studies.harness.declare.registry import guides, models
    from evidentia.studies.harness.declare.study import Study
    from evidentia.studies.harness.engine.run import run_study

    models.add("logged_model", regression)
    guides.add("logged_guide", normal_guide)
    params = {"num_steps": 12, "num_draws": 20, "prior_draws": 20}
    study = Study(
        name="logged",
        data={"key": "tanh"},
        model={"key": "logged_model"},
        guide={"key": "logged_guide"},
        inference={"key": "svi", "params": params},
        grid={"inference.learning_rate": (0.01, 0.1)},
    )
    ended = run_study(study, out=tmp_path / "run", log=("tensorboard", "tensorboard"))
    assert ended.exit_code == 0
    for point in ended.result.points:
        found = curves(tmp_path / "run" / "tensorboard" / point.id)["loss"]
        losses = pd.read_csv(tmp_path / "run" / "points" / point.id / "tables" / "losses.csv")["loss"]
        assert [step for step, _ in found] == [1, 10, 12]
        assert found[-1][1] == pytest.approx(losses.iloc[-1], rel=1e-6)
    assert "tensorboard" not in (tmp_path / "run" / "MANIFEST.json").read_text()
    with pytest.raises(StudyError, match="log need a folder"):
        run_study(study, log=("tensorboard",))


def test_points_that_take_no_steps_say_so(toy, capsys):
    assert main(["run", "toy", "--out", "run", "--log", "tensorboard"]) == 0
    assert "inference 'toy_shift' takes no steps that --log could write" in capsys.readouterr().out
    assert not Path("run/tensorboard").exists()


@pytest.mark.parametrize(
    ("logger", "extra", "package"),
    [("tensorboard", "tb", "tensorboard"), ("mlflow", "mlflow", "mlflow")],
)
def test_an_extra_that_is_not_there_is_one_message(monkeypatch, capsys, tmp_path, logger, extra, package):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # an import of it now fails
    with pytest.raises(StudyError, match=rf"extra {extra} is unusable: .*\[{extra}\]'") as caught:
        check_loggers([logger])
    assert caught.value.exit_code == 2
    assert main(["run", "tanh", "--smoke", "--out", "run", "--log", logger]) == 2
    _, err = capsys.readouterr()
    assert f"Fix: pip install 'evidentia[{extra}]'" in err
    assert "Traceback" not in err
    assert not Path("run").exists()


def test_a_broken_extra_is_a_reason_and_a_typo_has_a_suggestion(monkeypatch, tmp_path):
    (tmp_path / "broken_log.py").write_text("print('hello')\nraise RuntimeError('no operator\\nmore')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StudyError, match=r"extra tb is unusable: RuntimeError: no operator\. Fix"):
        require("tb", "broken_log")
    with pytest.raises(StudyError, match=r"unknown logger 'tensorbord'\. Did you mean 'tensorboard'\?"):
        check_loggers(["tensorbord"])


def test_nothing_optional_is_imported_before_it_is_asked_for():
    code = (
        "import sys, evidentia.studies.harness.cli, evidentia.studies.harness.engine.run\n"
        "import evidentia.studies.harness.loggers.choose\n"
        "names = ('tensorboard', 'mlflow', 'pyarrow', 'zarr', 'graphviz', 'torch')\n"
        "print([name for name in names if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"
