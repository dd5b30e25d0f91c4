"""The size of the largest tensor that a program makes."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Largest"]


@final
class Largest(TorchDispatchMode):
    """Sees every tensor that is made inside and remembers the most numbers one of them has.

    References:
        none; bookkeeping.

    Example:
        >>> import torch
        >>> with Largest() as seen:
        ...     _ = (torch.ones(3, 1) * torch.ones(4)).sum()
        >>> seen.numbers
        12
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 1

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # True would wrap the mode in a call that loads dynamo, which never sees it anyway.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, list | tuple) else [result]:
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return result
