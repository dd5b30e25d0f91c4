"""The warnings of an evidence estimate: kept with the result, and given to the user once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

__all__ = ["EvidenceWarning", "warned"]


class EvidenceWarning(UserWarning):
    """An estimate whose own diagnostics speak against it.

    References:
        none; bookkeeping.
    """


def warned(method: str, messages: Iterable[str], *, stacklevel: int = 3) -> tuple[str, ...]:
    """Issue one `EvidenceWarning` with all messages, if any, and return them for `diagnostics["warnings"]`.

    References:
        none; bookkeeping.

    Example:
        >>> warned("bridge", [])
        ()
    """
    found = tuple(messages)
    if found:
        warnings.warn(f"{method}: " + "; ".join(found), EvidenceWarning, stacklevel=stacklevel)
    return found
