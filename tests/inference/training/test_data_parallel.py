"""Two gloo processes under torchrun train as one: gradients, decisions, checkpoints, a killed rank."""

import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rank_jobs
import torch

from evidentia.inference.fit import fit
from evidentia.inference.training.distributed import Ranks, join, pack, shard_weights, unpack

JOBS = Path(rank_jobs.__file__)


def start(job: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "0", str(JOBS), job, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def results(job: str, folder: Path) -> list:
    done = start(job, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{job}-{rank}.pt") for rank in range(2)]


def equal(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(v, two[k]) if isinstance(v, torch.Tensor) else v == two[k] for k, v in one.items()
    )


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> list:
    return results("ddp", tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> list:
    return results("fits", tmp_path_factory.mktemp("fits"))


def marked(function):
    """A test that starts processes."""
    return pytest.mark.dist(pytest.mark.slow(function))


def test_unequal_shards_need_the_weight_and_the_mean() -> None:
    """G + sum g from L_r = G + (N / n_r) sum_r g, with shards of 1 and 3 rows."""
    g, common, leaf = torch.tensor([9.0, 1.0, 4.0, 1.5]), 2.0, torch.zeros(())
    shards = [slice(0, 1), slice(1, 4)]
    losses = [common + 4 / len(g[s]) * float(g[s].sum()) for s in shards]

    def total(weights: list[float]) -> float:
        parts = [pack(losses[r], [torch.tensor(losses[r])], [leaf], weights[r], Ranks(r, 2)) for r in (0, 1)]
        step = unpack(sum(parts), [leaf], 2)
        assert step.loss == pytest.approx(float(step.gradients[0]), rel=1e-6)
        return step.loss

    truth = common + float(g.sum())
    assert total(shard_weights([1, 3])) == pytest.approx(truth, rel=1e-12)
    assert abs(total([1.0, 1.0]) - truth) > 1.0  # without the weight
    assert abs(sum(losses) - truth) > 1.0  # a sum in place of the mean


def test_a_failure_on_one_rank_is_seen_by_all() -> None:
    likes = [torch.zeros(2), torch.zeros(1)]
    good = pack(1.0, [torch.ones(2), None], likes, 1.0, Ranks(0, 2))
    bad = pack(1.0, [torch.tensor([1.0, math.inf]), None], likes, 1.0, Ranks(1, 2))
    step = unpack(good + bad, likes, 2)
    assert step.failed == (1,)
    assert step.gradients[1] is None
    assert not torch.isfinite(step.gradients[0]).all()


def test_shards_cover_the_rows_once() -> None:
    for size in (1, 2, 3, 7):
        rows = [list(range(23))[Ranks(rank, size).shard(23)] for rank in range(size)]
        assert [row for part in rows for row in part] == list(range(23))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
    with pytest.raises(ValueError, match="at least one row"):
        Ranks(0, 3).shard(2)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"RANK": ""}, "RANK are not set"), ({"RANK": "x"}, "whole numbers"), ({"RANK": "2"}, "RANK < WORLD")],
)
def test_join_says_what_is_wrong(change: dict, words: str) -> None:
    given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | change
    with pytest.raises(ValueError, match=words), join(environment=given):
        pass


def test_fit_outside_a_job_is_refused() -> None:
    with pytest.raises(ValueError, match="no gloo group"):
        fit((lambda: None, lambda: None), seed=0, data_parallel=True)


@marked
@pytest.mark.parametrize("name", ["ppca", "vae"])
def test_two_half_batches_give_the_gradient_of_the_whole(ddp: list, name: str) -> None:
    for found in ddp:
        single = found[name]["single"]
        assert (found[name]["parallel"] - single).abs().max() <= 1e-6 * single.abs().max()


@marked
def test_torch_wrapper_trains_our_objectives(ddp: list) -> None:
    for name in ("ppca", "vae"):
        assert torch.equal(ddp[0][f"{name}_trained"], ddp[1][f"{name}_trained"])
        losses = (ddp[0][f"{name}_losses"] + ddp[1][f"{name}_losses"]) / 2
        assert losses[-30:].mean() < losses[:10].mean() - 10
    assert ddp[0]["evidence"] == pytest.approx(ddp[0]["best"], abs=0.01)


@marked
@pytest.mark.parametrize("shards", ["equal", "unequal"])
def test_fit_takes_the_step_of_one_process(fits: list, shards: str) -> None:
    options = {"num_steps": 1, "learning_rate": 1.0, "optimizer": rank_jobs.sgd, "seed": 0}
    alone = fit(rank_jobs.fixed_regression(), *rank_jobs.covariates(), **options)
    for found in fits:
        torch.testing.assert_close(found[f"step_{shards}"], alone.params["loc"], rtol=1e-12, atol=0)
        torch.testing.assert_close(found[f"loss_{shards}"], alone.losses, rtol=1e-12, atol=0)


@marked
def test_autonormal_ends_at_the_posterior_on_both_ranks(fits: list) -> None:
    assert equal(fits[0]["auto"], fits[1]["auto"])
    x, y = rank_jobs.covariates()
    precision = torch.eye(2, dtype=torch.float64) + x.T @ x / 0.49
    mean = torch.linalg.solve(precision, x.T @ y / 0.49)
    sd = precision.diagonal().rsqrt()  # of the best diagonal q
    assert ((fits[0]["auto"]["AutoNormal.locs.b"] - mean) / sd).abs().max() < 0.15
    assert (fits[0]["auto"]["AutoNormal.scales.b"] / sd).log().abs().max() < 0.1


@marked
def test_resume_is_bitwise_and_needs_the_generator_of_every_rank(fits: list) -> None:
    for found in fits:
        assert equal(found["whole"], found["resumed"])
        assert not torch.equal(found["whole"]["losses"], found["forgotten"]["losses"])
    assert equal(fits[0]["whole"], fits[1]["whole"])
    assert not torch.equal(fits[0]["whole"]["rng/torch"], fits[0]["whole"]["rng/torch/1"])
    assert [found["checkpoints"] for found in fits] == [2, 0]


@marked
def test_a_recorded_step_gives_the_same_numbers(fits: list) -> None:
    assert equal(fits[0]["aten"], fits[1]["aten"])
    for key in ("param/AutoNormal.locs.b", "param/AutoNormal.scales.b"):
        torch.testing.assert_close(fits[0]["aten"][key], fits[0]["eager"][key])


@marked
def test_ranks_act_together(fits: list) -> None:
    for found in fits:
        assert found["skipped"]["count"] == 1
        assert found["error"]["step"] == 3
        assert "on rank 1" in found["error"]["text"]
        assert found["stopped"] == {"reason": "enough", "steps": 7}
        assert found["late"] == "max_seconds"
    parameters = [{k: v for k, v in f["skipped"]["state"].items() if k != "losses"} for f in fits]
    assert equal(*parameters)
    assert equal(fits[0]["buffers"], fits[1]["buffers"])
    assert "buffer/model/net.1.running_mean" in fits[0]["buffers"]
    assert torch.equal(fits[0]["evaluations"], fits[1]["evaluations"])


@marked
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("local", "AutoNormal.locs.z"),
        ("whole", "add up to one data set"),
        ("size", "add up to one data set"),
        ("steps", r"num_steps: \[2.0, 3.0\]"),
        ("blocks", "steps_per_call"),
        ("restarts", "restarts"),
        ("seed", "expected a seed"),
        ("state", "comes from 1 rank"),
    ],
)
def test_refusals(fits: list, case: str, words: str) -> None:
    for found in fits:
        assert re.search(words, found["refusals"][case])


@marked
def test_a_killed_rank_ends_the_job_and_the_same_command_resumes(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    whole.mkdir()
    run.mkdir()
    killed = start("crash", run, KILL_AT="130")
    ended = time.time()
    assert killed.returncode == 1
    assert ended - (run / "killed").stat().st_mtime < 20
    assert "lost another of the 2 ranks" in killed.stderr
    assert not list(run.glob("*.pt"))
    resumed = results("crash", run)
    assert (run / "started").read_text() == "100"
    reference = results("crash", whole)
    assert (whole / "started").read_text() == "0"
    for rank in range(2):
        assert len(resumed[rank]["losses"]) == 200
        assert equal(resumed[rank], reference[rank])
