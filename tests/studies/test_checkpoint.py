"""Checkpoints: exact round trips, whole or not at all, and nothing in a file ever runs."""

import hashlib
import json
import math
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from evidentia.studies.harness.storage.checkpoint import (
    CheckpointError,
    FolderCheckpoints,
    decode,
    encode,
    unpack,
)


def store(tmp_path: Path, notices: list[str] | None = None, **options: object) -> FolderCheckpoints:
    notice = (lambda text: None) if notices is None else notices.append
    return FolderCheckpoints(tmp_path / "ckpt", settings="digest", notice=notice, **options)  # type: ignore[arg-type]


def state(step: int) -> dict[str, object]:
    torch.manual_seed(step)
    return {"param/w": torch.randn(3), "step": step, "opt/groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]}


def same(one: dict, other: dict) -> bool:
    if list(one) != list(other):
        return False
    return all(
        torch.equal(one[k], other[k]) if isinstance(one[k], torch.Tensor) else one[k] == other[k] for k in one
    )


def spoil(tmp_path: Path, number: int, **header: object) -> None:
    path = tmp_path / "ckpt" / f"ckpt-{number}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **header}))


def test_state_comes_back_exactly_and_in_order(tmp_path: Path) -> None:
    whole = {
        "z": torch.tensor(3),
        "a": torch.zeros(0, 2, dtype=torch.float64),
        "rng/torch": torch.get_rng_state(),
        "flag": torch.tensor([True]),
        "step": 4,
        "betas": (0.9, (1, "x"), None),
        "best": -math.inf,
        "map": {1: "one", (2, 3): 0.1},
        "odd": {"__tuple__": 1},
        "big": 2**80,
        "true": True,
    }
    store(tmp_path).save(whole)
    back = store(tmp_path).load()
    assert back is not None
    assert same(whole, back)
    assert back["a"].dtype == torch.float64
    assert type(back["betas"]) is tuple
    assert type(back["true"]) is bool
    assert math.isnan(decode(json.loads(json.dumps(encode(math.nan)))))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(values)
@settings(deadline=None, derandomize=True, max_examples=50)
def test_encoding_is_inverted(value: object) -> None:
    back = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert repr(back) == repr(value)


def test_state_without_tensors_comes_back(tmp_path: Path) -> None:
    store(tmp_path).save({"step": 3, "note": "before the first draw"})
    assert store(tmp_path).load() == {"step": 3, "note": "before the first draw"}


def test_newest_two_are_kept(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for step in (5, 10, 15):
        kept.save(state(step))
    names = sorted(os.listdir(tmp_path / "ckpt"))
    assert names == ["ckpt-10.json", "ckpt-10.safetensors", "ckpt-15.json", "ckpt-15.safetensors"]
    kept.clear()
    assert os.listdir(tmp_path / "ckpt") == []
    assert kept.load() is None


def test_header_is_written_after_the_tensors_and_old_pairs_go_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    replace, unlink = os.replace, Path.unlink
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    monkeypatch.setattr(
        Path, "unlink", lambda path, **k: (order.append("-" + path.name), unlink(path, **k))[1]
    )
    kept = store(tmp_path)
    for step in (1, 2, 3):
        kept.save(state(step))
    assert order[-4:-2] == ["ckpt-3.safetensors", "ckpt-3.json"]
    assert sorted(order[-2:]) == ["-ckpt-1.json", "-ckpt-1.safetensors"]


def test_aliased_and_strided_tensors_are_cloned(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    store(tmp_path).save({"a": base, "b": base, "t": base.T, "p": torch.nn.Parameter(base[0]), "step": 1})
    back = store(tmp_path).load()
    assert back is not None
    assert torch.equal(back["t"], base.T)
    assert torch.equal(back["a"], back["b"])


@pytest.mark.parametrize("value", [object(), [torch.ones(1)], {"w": torch.ones(1)}, {1, 2}])
def test_what_cannot_be_kept_is_named_and_writes_nothing(tmp_path: Path, value: object) -> None:
    with pytest.raises(CheckpointError, match="opt"):
        store(tmp_path).save({"opt": value, "step": 1})
    assert not (tmp_path / "ckpt").exists()


@pytest.mark.parametrize("step", [None, -1, 2.0])
def test_step_is_needed(tmp_path: Path, step: object) -> None:
    with pytest.raises(CheckpointError, match="step"):
        store(tmp_path).save({"w": torch.ones(1)}, step)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"schema": 2}, "newer version"),
        ({"settings": "other"}, "other settings"),
        ({"sha256": "0" * 64}, "checksum mismatch"),
        ({"tensors": []}, "differ from its header"),
        ({"keys": ["param/w"]}, "list of keys"),
        ({"values": {}}, "list of keys"),
        ({"schema": "1"}, "not one of ours"),
        ({"step": 7}, "not one of ours"),
        ({"tensors": None}, "lacks 'tensors'"),
    ],
)
def test_unusable_pair_falls_back_with_the_reason(tmp_path: Path, spoiled: dict, reason: str) -> None:
    notices: list[str] = []
    kept = store(tmp_path, notices)
    kept.save(state(1))
    kept.save(state(2))
    spoil(tmp_path, 2, **spoiled)
    back = kept.load()
    assert back is not None
    assert back["step"] == 1
    assert len(notices) == 1
    assert reason in notices[0]
    assert "ckpt-2" in notices[0]


def test_expected_names_shapes_and_dtypes_are_compared(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(state(1))
    assert kept.load({"param/w": torch.zeros(3)}) is not None
    for like in (torch.zeros(4), torch.zeros(3, dtype=torch.float64)):
        with pytest.raises(CheckpointError, match="none of the 1"):
            kept.load({"param/w": like})
    with pytest.raises(CheckpointError, match="none of the 1"):
        kept.load({"param/v": torch.zeros(3)})


def test_after_a_fall_back_the_unusable_pair_does_not_take_a_place(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for step in (1, 5):
        kept.save(state(step))
    spoil(tmp_path, 5, sha256="")
    assert kept.load() is not None
    kept.save(state(3))
    assert kept.steps() == [3, 1]


def test_tensor_file_without_header_is_no_checkpoint(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(state(1))
    (tmp_path / "ckpt" / "ckpt-1.json").rename(tmp_path / "ckpt" / "other.json")
    assert kept.load() is None
    with pytest.raises(CheckpointError, match="step 1 is gone"):
        store(tmp_path, promised=1).load()


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def hostile(tmp_path: Path) -> dict[str, bytes]:
    """Files that run a command when a reader trusts them."""
    bomb = Bomb(tmp_path / "marker")
    torch.save({"params": bomb, "constraints": bomb}, tmp_path / "store.pt")
    return {"pickle": pickle.dumps(bomb), "torch": (tmp_path / "store.pt").read_bytes()}


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_hostile_files_do_not_run(tmp_path: Path, kind: str) -> None:
    data = hostile(tmp_path)[kind]
    kept = store(tmp_path)
    kept.save(state(1))
    (tmp_path / "ckpt" / "ckpt-1.safetensors").write_bytes(data)
    spoil(tmp_path, 1, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(CheckpointError) as refusal:
        kept.load()
    assert refusal.value.exit_code == 2
    (tmp_path / "ckpt" / "ckpt-1.json").write_bytes(data)
    with pytest.raises(CheckpointError):
        kept.load()
    assert not (tmp_path / "marker").exists()


def test_hostile_files_would_run_elsewhere(tmp_path: Path) -> None:
    """The trial can see an execution: Pyro's own loader runs the planted command."""
    import pyro

    hostile(tmp_path)
    with pytest.raises(Exception):  # noqa: B017, PT011
        pyro.get_param_store().load(str(tmp_path / "store.pt"))
    assert (tmp_path / "marker").exists()


def test_facts_about_safetensors() -> None:
    """Truncation and garbage raise; a flipped byte loads, so the sha256 must catch it; aliases raise."""
    good = save({"w": torch.arange(4.0)})
    for bad in (good[:-3], good[:20], b"garbage" * 10, b""):
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            unpack(bad, "file")
    flipped = bytearray(good)
    flipped[-1] ^= 1
    assert not torch.equal(load(bytes(flipped))["w"], torch.arange(4.0))
    shared = torch.ones(3)
    with pytest.raises(RuntimeError, match="share memory"):
        save({"a": shared, "b": shared})
