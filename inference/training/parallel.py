"""The ranks of a data-parallel fit: what they agree on before it, at every step, and in the checkpoint."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import pyro
import torch
from torch import Tensor
from torch import distributed as dist

from evidentia.inference.compile.inputs import flatten_arguments
from evidentia.inference.compile.program import preserved
from evidentia.inference.objectives.nesting import run_pair
from evidentia.inference.training.collectives import broadcast, gather, sum_of
from evidentia.inference.training.distributed import Ranks, pack, shard_weights, unpack
from evidentia.inference.training.fitted import State
from evidentia.inference.training.per_datum import data_rows, per_datum_parameters

if TYPE_CHECKING:
    from evidentia.inference.training.fit_loop import FitLoop

__all__ = ["Team", "team_of"]

_REASON = 256  # bytes of a reason to stop


@final
class Team:
    """The ranks of one data-parallel fit, as one of them sees them. All of them call each method together.

    Args:
        ranks: the place of this process in its group.

    References:
        Li, Zhao, Varma et al., 2020, PyTorch distributed: Experiences on accelerating data parallel training.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.weight = 1.0
        self.failed: tuple[int, ...] = ()
        self._names: list[str] = []
        self._shapes: list[torch.Size] = []
        self._listens = False

    # -- before the first step -----------------------------------------------------------------------------

    def own(self, state: State) -> State:
        """The state with the random state of this rank.

        Raises:
            ValueError: the state comes from another number of ranks.
        """
        found = 1 + sum(key.startswith("rng/torch/") for key in state)
        if found != self.ranks.size:
            raise ValueError(
                f"state: it comes from {found} rank{'s' if found > 1 else ''}, but this job has "
                f"{self.ranks.size}. Fix: start as many processes as wrote the checkpoint"
            )
        mine = {key: value for key, value in state.items() if not key.startswith("rng/torch/")}
        return mine if self.ranks.rank == 0 else mine | {"rng/torch": state[f"rng/torch/{self.ranks.rank}"]}

    def begin(self, run: FitLoop, settings: Mapping[str, float | None], callbacks: Sequence[Any]) -> None:
        """Create the parameters, compare the ranks, and give all of them the values of rank 0.

        Args:
            run: the fit; its state is loaded already, if there is one.
            settings: numbers that must agree, by the name of the argument.
            callbacks: of this rank; if any rank has one, all of them ask each other after each step.

        Raises:
            ValueError: the ranks differ in a setting, in their parameters or in their data set; their shards
                do not add up to it; or a parameter belongs to single rows.
        """
        self._same({name: math.nan if value is None else float(value) for name, value in settings.items()})
        self._listens = bool(self._gather([float(bool(callbacks))]).any())
        if not run.leaves:
            self._create(run)
        self._names = list(run.leaves)
        self._refuse_devices(run.leaves)
        layout = repr([(name, tuple(leaf.shape), leaf.dtype) for name, leaf in run.leaves.items()])
        self._same({"the parameters (a checksum of names, shapes and types)": zlib.crc32(layout.encode())})
        broadcast(self.ranks, [*run.leaves.values(), *run.modules.buffers().values()])
        self._weigh(run)
        self._shapes = _shapes(run)

    def _create(self, run: FitLoop) -> None:
        """One evaluation whose numbers are not used."""
        if run.batches is not None:
            run.args = run.batches()
        kept = {name: value.clone() for name, value in run.modules.buffers().items()}
        with pyro.validation_enabled(True):
            _, names = run.call_objective()
        run.register(names)
        live = run.modules.buffers()
        run.modules.put({name: value for name, value in live.items() if name in kept}, kept)

    def _weigh(self, run: FitLoop) -> None:
        """The weight of this rank, from the plate over the data; parameters of single rows are refused."""
        model, guide = run.programs
        with preserved(run.modules), pyro.validation_enabled(False), torch.enable_grad():
            traces = run_pair(model, guide, run.args, run.kwargs)
            rows = data_rows(*traces)
            single = per_datum_parameters(run.leaves, rows, *traces)
        if single:
            raise ValueError(
                f"data_parallel: parameters {single} hold an entry for each row of plate '{rows.plate}'; the "
                "ranks have different rows, so they cannot share them. Fix: use a guide with an encoder, "
                "which computes them from the data"
            )
        table = self._gather([float(rows.here), float(rows.total)])
        counts, totals = table[:, 0].int().tolist(), table[:, 1].int().tolist()
        whole = sum(counts) == totals[0] if run.batches is None else sum(counts) <= totals[0]
        if len(set(totals)) > 1 or not whole:
            raise ValueError(
                f"data_parallel: plate '{rows.plate}' has {counts} rows on the ranks and says that there are "
                f"{totals} in all; expected shards that add up to one data set. Fix: pass each rank its own "
                "rows, x[ranks.shard(N)], and the size N of the whole data set to the plate"
            )
        self.weight = shard_weights(counts)[self.ranks.rank]

    def _refuse_devices(self, leaves: Mapping[str, Tensor]) -> None:
        other = sorted(name for name, leaf in leaves.items() if leaf.device.type != "cpu")
        if other:
            raise NotImplementedError(
                f"data_parallel: parameters {other} are on an accelerator, whose random state is not part of "
                "the checkpoint yet: not supported. Fix: keep the pair on the CPU"
            )

    # -- at every step -------------------------------------------------------------------------------------

    def combine(self, run: FitLoop, loss: float) -> float:
        """Replace the gradients by their weighted mean over the ranks, and return that of the loss in nats.

        Buffers become those of rank 0. A rank whose numbers are not finite makes the mean not finite, so
        that all of them see the failure.
        """
        late = [name for name in run.leaves if name not in self._names]
        if late:
            raise ValueError(
                f"data_parallel: parameters {late} appeared after the first evaluation. Fix: create every "
                "parameter on the programs' first call"
            )
        if _shapes(run) != self._shapes:
            raise ValueError(
                f"data_parallel: the shapes of the arguments changed from {[tuple(s) for s in self._shapes]} "
                f"to {[tuple(s) for s in _shapes(run)]}; the weight of a rank is that of its first batch. "
                "Fix: draw batches of one size"
            )
        leaves = list(run.leaves.values())
        total = pack(loss, [leaf.grad for leaf in leaves], leaves, self.weight, self.ranks)
        mean = unpack(sum_of(self.ranks, total), leaves, self.ranks.size)
        run.put_gradients(mean.gradients)
        self.failed = mean.failed
        broadcast(self.ranks, list(run.modules.buffers().values()))
        return mean.loss

    def agree(self, reason: str | None, asked: bool | None = None) -> str | None:
        """The reason to stop of the first rank that has one.

        Args:
            reason: that of this rank.
            asked: whether the ranks ask each other at all, the same on all of them; if None, when any of
                them has callbacks.
        """
        if not (self._listens if asked is None else asked):
            return None
        data = torch.zeros(_REASON, dtype=torch.uint8)
        text = torch.tensor(list((reason or "").encode()[:_REASON]), dtype=torch.uint8)
        data[: len(text)] = text
        for other in gather(self.ranks, data):
            found = bytes(other.tolist()).rstrip(b"\0").decode(errors="ignore")
            if found:
                return found
        return None

    def first(self, value: float) -> float:
        """The number that rank 0 has."""
        return float(self._gather([value])[0, 0])

    def where(self) -> str:
        """The ranks that failed at the last step, for a message."""
        return f" on rank{'s' if len(self.failed) > 1 else ''} {', '.join(map(str, self.failed))}"

    # -- at a checkpoint -----------------------------------------------------------------------------------

    def generators(self) -> dict[str, Tensor]:
        """The random state of every rank: `rng/torch` of rank 0, `rng/torch/<rank>` of the others."""
        found = gather(self.ranks, torch.get_rng_state())
        return {f"rng/torch/{rank}" if rank else "rng/torch": value for rank, value in enumerate(found)}

    # -- collectives ---------------------------------------------------------------------------------------

    def _gather(self, values: Sequence[float]) -> Tensor:
        return torch.stack(gather(self.ranks, torch.tensor(values, dtype=torch.float64)))

    def _same(self, values: Mapping[str, float]) -> None:
        table = self._gather(list(values.values()))
        for name, column in zip(values, table.T, strict=True):
            found = [None if math.isnan(value) else value for value in column.tolist()]
            if len(set(found)) > 1:
                raise ValueError(
                    f"data_parallel: the ranks differ in {name}: {found}. Fix: start every rank with the "
                    "same settings and the same checkpoint"
                )


def team_of(
    data_parallel: bool, seed: int | None, state: State | None, restarts: bool, steps_per_call: int
) -> Team | None:
    """The team of this process' group, or None for a fit of one process.

    Raises:
        ValueError: no gloo group, no seed, or a setting that ranks cannot share.

    References:
        none; bookkeeping.

    Example:
        >>> team_of(False, None, None, False, 1) is None
        True
    """
    if not data_parallel:
        return None
    wrong = {"restarts": restarts, "steps_per_call > 1": steps_per_call > 1}
    if any(wrong.values()):
        names = ", ".join(name for name, given in wrong.items() if given)
        raise ValueError(f"data_parallel: not together with {names}. Fix: leave them out")
    if not dist.is_available() or not dist.is_initialized() or "gloo" not in dist.get_backend():
        raise ValueError(
            "data_parallel: this process is in no gloo group. Fix: call fit inside 'with join() as ranks:' "
            "(evidentia.inference.training.distributed) and start the script with torchrun"
        )
    if seed is None and state is None:
        raise ValueError(
            "data_parallel: expected a seed, so that the ranks draw different noise. Fix: seed=0"
        )
    return Team(Ranks(dist.get_rank(), dist.get_world_size()))


def _shapes(run: FitLoop) -> list[torch.Size]:
    return [tensor.shape for tensor in flatten_arguments(run.args, run.given).tensors]
