"""Two networks of one pair must not share a name in Pyro's parameter store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyro.nn import PyroModule

__all__ = ["refuse_shared_names"]


def refuse_shared_names(pair: tuple[Any, Any], names: Iterable[str]) -> None:
    """Refuse a model and a guide that both have a parameter of one name.

    Pyro knows the parameter of a module by its attribute path. Of two with one path the store keeps the one
    it sees first, and the other is never trained, without an error.

    Args:
        pair: model and guide; only two `PyroModule`s can collide in this way.
        names: the parameters in use.

    Raises:
        ValueError: naming the parameter.

    References:
        none; bookkeeping.

    Example:
        >>> from torch import nn
        >>> one, two = PyroModule(), PyroModule()
        >>> one.net, two.net = nn.Linear(2, 3), nn.Linear(3, 2)
        >>> try:
        ...     refuse_shared_names((one, two), ["net.weight"])
        ... except ValueError as error:
        ...     print(str(error)[:56])
        pair: model and guide both have a parameter 'net.weight'
    """
    if not all(isinstance(program, PyroModule) for program in pair):
        return
    of_model, of_guide = (dict(program.named_parameters()) for program in pair)
    for stored in names:
        name = stored.replace("$$$", ".")  # Pyro's mark between a plain torch module and what is in it
        if name in of_model and name in of_guide and of_model[name] is not of_guide[name]:
            raise ValueError(
                f"pair: model and guide both have a parameter '{name}', of which Pyro's store keeps one; the "
                "other would never move. Fix: give the guide's network another attribute name"
            )
