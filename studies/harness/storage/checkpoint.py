"""Checkpoints of one point: pairs of a safetensors file and a JSON header, of which the newest two are kept.

``ckpt-<step>.safetensors`` holds the tensors; ``ckpt-<step>.json`` holds everything else: the schema version,
the digest of the settings, the sha256 of the tensor file (safetensors itself does not notice a flipped byte),
the list of names, shapes and dtypes, and the values that are not tensors. The tensor file is written first,
then the header, and only then are older pairs removed: at any instant one whole pair lies on the disk.

A pair is loaded entirely or not at all. Where the newest is unusable the next older one is taken, with a
warning; where all are unusable the store refuses. No format that can run code is ever read.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evidentia.studies.harness.errors import StudyError
from evidentia.studies.harness.storage import atomic

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
KEPT = 2
_NAME = re.compile(r"ckpt-(\d{1,15})\.(json|safetensors)")
_NO_TENSORS = "__no_tensors__"
_TAGS = ("__tuple__", "__map__", "__float__")


@final
class CheckpointError(StudyError):
    """No usable checkpoint is left (exit 2), or a state cannot be written as one."""


def encode(value: Any, where: str = "state") -> Any:
    """Return ``value`` as JSON can hold it, so that :func:`decode` gives it back exactly.

    JSON would turn a tuple (Adam's ``betas``) into a list, and has no infinity; both are tagged.

    Raises:
        CheckpointError: for a value that is not a number, text, None, or a list, tuple or dict of these.

    Example::

        >>> import json
        >>> decode(json.loads(json.dumps(encode({"betas": (0.9, 0.999), "best": float("inf")}))))
        {'betas': (0.9, 0.999), 'best': inf}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        finite = value - value == 0.0
        return float(value) if finite else {"__float__": repr(float(value))}
    if isinstance(value, tuple):
        return {"__tuple__": [encode(item, where) for item in value]}
    if isinstance(value, list):
        return [encode(item, where) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not any(tag in value for tag in _TAGS):
            return {key: encode(item, f"{where}[{key!r}]") for key, item in value.items()}
        pairs = [[encode(key, where), encode(item, f"{where}[{key!r}]")] for key, item in value.items()]
        return {"__map__": pairs}
    raise CheckpointError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold. Expected a tensor at the "
        "top level, or a number, text, None, list, tuple or dict. Give each tensor its own key, "
        "e.g. 'opt/w/exp_avg'"
    )


def decode(value: Any) -> Any:
    """Invert :func:`encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        if "__tuple__" in value:
            return tuple(decode(item) for item in value["__tuple__"])
        if "__map__" in value:
            return {decode(key): decode(item) for key, item in value["__map__"]}
        if "__float__" in value:
            return float(value["__float__"])
        return {key: decode(item) for key, item in value.items()}
    return value


def describe(tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Return name, shape and dtype of each tensor, sorted by name."""
    return [
        {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        for name, tensor in sorted(tensors.items())
    ]


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return ``tensors`` as the bytes of a safetensors file.

    Each is cloned first: safetensors refuses two names that share memory.
    """
    import torch
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # A file without any tensor is written by safetensors and then not read back.
    whole = whole or {_NO_TENSORS: torch.zeros(0, dtype=torch.uint8)}
    return bytes(save(whole, dict(metadata or {})))


def unpack(data: bytes, where: Path | str) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file.

    Raises:
        ValueError: if the bytes are truncated or are no safetensors file (a pickle, for example).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return {name: tensor for name, tensor in load(data).items() if name != _NO_TENSORS}
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{where} is not a whole safetensors file: {error}") from error


@final
class FolderCheckpoints:
    """The checkpoints of one point in one folder.

    Args:
        folder: where the pairs lie (``points/<id>/ckpt``); created at the first save.
        settings: digest of the point's settings; a pair with another digest is foreign and never loaded.
        notice: receives one line per warning.
        on_saved: receives the step after each save.
        promised: step of a checkpoint that is known to have been written; its loss is then noticed.

    Example::

        >>> import tempfile, torch
        >>> store = FolderCheckpoints(Path(tempfile.mkdtemp()) / "ckpt", settings="abc")
        >>> store.load() is None
        True
        >>> store.save({"param/w": torch.ones(2), "step": 7, "betas": (0.9, 0.999)})
        >>> store.load()
        {'param/w': tensor([1., 1.]), 'step': 7, 'betas': (0.9, 0.999)}
    """

    def __init__(
        self,
        folder: Path,
        settings: str,
        notice: Callable[[str], object] | None = None,
        on_saved: Callable[[int], object] | None = None,
        promised: int | None = None,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._notice = notice or (lambda text: None)
        self._on_saved = on_saved or (lambda step: None)
        self._promised = promised
        self._unusable: set[int] = set()

    def steps(self) -> list[int]:
        """Return the steps that have a header, newest first."""
        return sorted((step for step, kind in self._files() if kind == "json"), reverse=True)

    def save(self, state: Mapping[str, Any], step: int | None = None) -> None:
        """Write one pair, then remove the pairs that are no longer among the newest two.

        Args:
            state: flat mapping; tensors go to the tensor file, everything else to the header.
            step: number of the step; ``state["step"]`` by default.

        Raises:
            CheckpointError: if a value can be held by neither file, or no step is given.
            StorageError: if the disk refuses (exit 74); the earlier pairs are intact.
        """
        import torch

        number = state.get("step") if step is None else step
        if not isinstance(number, int) or number < 0:
            raise CheckpointError(
                f"a checkpoint needs its step >= 0, as state['step'] or step=; got {number!r}"
            )
        tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        data = pack(tensors)
        header = {
            "schema": SCHEMA,
            "step": number,
            "settings": self._settings,
            "sha256": hashlib.sha256(data).hexdigest(),
            "tensors": describe(tensors),
            "keys": list(state),
            "values": {k: encode(v, f"state[{k!r}]") for k, v in state.items() if k not in tensors},
        }
        atomic.make_folder(self._folder)
        atomic.write_bytes(self._path(number, "safetensors"), data)
        atomic.write_json(self._path(number, "json"), header)
        self._unusable.discard(number)
        self._prune(number)
        self._on_saved(number)

    def load(self, expected: Mapping[str, Tensor] | None = None) -> dict[str, Any] | None:
        """Return the newest usable state, or None where no checkpoint was ever written.

        Args:
            expected: tensors whose names, shapes and dtypes the state must hold; unchecked if None.

        Raises:
            CheckpointError: if there are checkpoints and none is usable (exit 2).
        """
        steps = self.steps()
        for step in steps:
            try:
                return self._read(step, expected)
            except ValueError as error:
                self._unusable.add(step)
                older = "trying the next older one" if step != steps[-1] else "no older one is left"
                self._notice(
                    f"warning: checkpoint {self._path(step, 'json').name} is unusable: {error}; {older}"
                )
        if steps:
            raise CheckpointError(
                f"none of the {len(steps)} checkpoints in {self._folder} is usable. Expected at least one "
                "whole pair with a matching sha256, schema and settings. Restore the folder, or run with "
                "--resume --restart to start this point over"
            )
        if self._promised is not None:
            raise CheckpointError(
                f"the checkpoint of step {self._promised} is gone from {self._folder}. Restore the folder, "
                "or run with --resume --restart to start this point over"
            )
        return None

    def clear(self) -> None:
        """Remove every checkpoint of this folder."""
        self._promised = None
        for step, kind in self._files():
            self._remove(step, kind)

    def _path(self, step: int, kind: str) -> Path:
        return self._folder / f"ckpt-{step}.{kind}"

    def _files(self) -> list[tuple[int, str]]:
        if not self._folder.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return [(int(m[1]), m[2]) for m in matches if m and str(int(m[1])) == m[1]]

    def _remove(self, step: int, kind: str) -> None:
        with contextlib.suppress(FileNotFoundError), atomic.storage("remove", self._path(step, kind)):
            self._path(step, kind).unlink(missing_ok=True)

    def _prune(self, newest: int) -> None:
        # Later steps belong to a course of the computation that was abandoned when an older pair was loaded.
        kept = [step for step in self.steps() if step <= newest and step not in self._unusable][:KEPT]
        for step, kind in self._files():
            if step not in kept:
                self._remove(step, kind)

    def _read(self, step: int, expected: Mapping[str, Tensor] | None) -> dict[str, Any]:
        header = _header(self._path(step, "json"), step)
        if header["settings"] != self._settings:
            raise ValueError("it belongs to other settings")
        path = self._path(step, "safetensors")
        data = atomic.read_limited(path, limit=2**40)
        found = hashlib.sha256(data).hexdigest()
        if found != header["sha256"]:
            raise ValueError(
                f"checksum mismatch of {path.name} (recorded {header['sha256'][:12]}, found {found[:12]})"
            )
        tensors = unpack(data, path.name)
        if describe(tensors) != header["tensors"]:
            raise ValueError(f"names, shapes or dtypes in {path.name} differ from its header")
        for name, like in (expected or {}).items():
            got = tensors.get(name)
            if got is None or got.shape != like.shape or got.dtype != like.dtype:
                have = "nothing" if got is None else f"{tuple(got.shape)} {got.dtype}"
                raise ValueError(
                    f"{name} must be {tuple(like.shape)} {like.dtype}, the checkpoint has {have}"
                )
        values = header["values"]
        if sorted(header["keys"]) != sorted([*tensors, *values]):
            raise ValueError("the header's list of keys does not match its contents")
        return {key: tensors[key] if key in tensors else decode(values[key]) for key in header["keys"]}


def _header(path: Path, step: int) -> dict[str, Any]:
    header = atomic.read_json(path)
    if not isinstance(header, dict) or not isinstance(header.get("schema"), int):
        raise ValueError("its header is not one of ours")
    if header["schema"] > SCHEMA:
        raise ValueError(
            f"it was written by a newer version (schema {header['schema']}; this one reads {SCHEMA})"
        )
    kinds = {"step": int, "settings": str, "sha256": str, "tensors": list, "keys": list, "values": dict}
    for key, kind in kinds.items():
        if not isinstance(header.get(key), kind):
            raise ValueError(f"its header lacks {key!r}")
    if header["step"] != step or not all(isinstance(key, str) for key in header["keys"]):
        raise ValueError("its header is not one of ours")
    return header
