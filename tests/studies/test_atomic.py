"""Atomic writes: all of a file or nothing of it, and a fault of the disk named."""

import errno
import json
import os
from pathlib import Path

import pytest

from evidentia.studies.harness.errors import StorageError
from evidentia.studies.harness.storage import atomic

pytestmark = pytest.mark.no_torch


def test_target_is_replaced_and_no_temporary_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    atomic.write_bytes(path, b"old")
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_data_is_on_the_disk_before_the_name_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"
        events.append(kind)
        sync(descriptor)

    def note_replace(old: Path, new: Path) -> None:
        assert Path(old).parent == Path(new).parent
        assert str(os.getpid()) in Path(old).name
        assert Path(old).name.startswith(".")
        events.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    atomic.write_bytes(tmp_path / "a", b"x")
    assert events == ["file", "replace", "folder"]


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_fault_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = tmp_path / "a"
    atomic.write_bytes(path, b"old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fault, full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        atomic.write_bytes(path, b"new")
    assert caught.value.exit_code == 74
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_error_of_a_writer_is_passed_on_and_cleaned_up(tmp_path: Path) -> None:
    def writer(path: Path) -> None:
        path.write_text("half")
        raise KeyError("mine")

    with pytest.raises(KeyError):
        atomic.write_with(tmp_path / "a", writer)
    assert os.listdir(tmp_path) == []


def test_missing_folder_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="gone"):
        atomic.write_text(tmp_path / "gone" / "a", "x")
    assert not (tmp_path / "gone").exists()


def test_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "a").symlink_to(outside)
    atomic.write_text(tmp_path / "a", "new")
    assert outside.read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()


def test_json_is_strict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a", {"x": float("nan")})
    assert os.listdir(tmp_path) == []
    atomic.write_json(tmp_path / "a", {"b": 1, "a": "ä"})
    assert list(json.loads((tmp_path / "a").read_text())) == ["a", "b"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[" * 100_000, b""])
def test_what_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json"):
        atomic.read_json(path)


def test_reading_has_a_limit_and_wants_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    with pytest.raises(ValueError, match="5 bytes; at most 4"):
        atomic.read_limited(path, 4)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe", tmp_path / "absent"):
        with pytest.raises(ValueError, match="not a regular file"):
            atomic.read_limited(other, 4)
