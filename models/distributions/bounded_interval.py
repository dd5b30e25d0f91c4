"""An interval with ends that may be infinite, element by element, and its bijection."""

from typing import final

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import Transform
from torch.nn.functional import logsigmoid


@final
class BoundedInterval(constraints.Constraint):
    """Values with ``low <= value <= high``; each element of low may be -inf and each of high inf.

    torch's `interval` has no bijection when an end is infinite; this one has, without looking at values in
    Python, so it can be captured into a graph.

    Args:
        low: lower end, any shape.
        high: upper end, broadcasts with ``low``.

    Example:
        >>> import torch
        >>> BoundedInterval(torch.tensor(0.0), torch.tensor(torch.inf)).check(torch.tensor([-1.0, 2.0]))
        tensor([False,  True])

    References:
        none; bookkeeping.
    """

    is_discrete = False
    event_dim = 0

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low = low
        self.high = high
        super().__init__()

    def __repr__(self) -> str:
        return f"BoundedInterval(low={self.low}, high={self.high})"

    def check(self, value: Tensor) -> Tensor:
        """True where the value lies in the interval, ends included."""
        return (self.low <= value) & (value <= self.high)


@final
class IntervalTransform(Transform):
    """The bijection of the real line onto a `BoundedInterval`.

    ``low + (high - low) σ(x)`` with two finite ends, ``low + e^x`` or ``high - e^x`` with one, x with none.

    Args:
        low: lower end, may be -inf.
        high: upper end, may be inf.

    Example:
        >>> import torch
        >>> IntervalTransform(torch.tensor([0.0, -torch.inf]), torch.tensor([2.0, 1.0]))(torch.zeros(2))
        tensor([1., 0.])

    References:
        none; bookkeeping.
    """

    domain = constraints.real
    bijective = True

    def __init__(self, low: Tensor, high: Tensor, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.low, self.high = torch.broadcast_tensors(low, high)
        self.codomain = BoundedInterval(self.low, self.high)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntervalTransform) and all(
            a is b or torch.equal(a, b) for a, b in ((self.low, other.low), (self.high, other.high))
        )

    def __hash__(self) -> int:
        return hash(IntervalTransform)

    def with_cache(self, cache_size: int = 1) -> "IntervalTransform":
        """The same transform with another cache size."""
        return self if cache_size == self._cache_size else IntervalTransform(self.low, self.high, cache_size)

    def _cases(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        below, above = ~self.low.isinf(), ~self.high.isinf()
        low = torch.where(below, self.low, torch.zeros_like(self.low))
        high = torch.where(above, self.high, torch.zeros_like(self.high))
        return below, above, low, high

    def _call(self, x: Tensor) -> Tensor:
        below, above, low, high = self._cases()
        both, one = below & above, below ^ above
        exp = torch.where(one, x, torch.zeros_like(x)).exp()  # no overflow in cases not taken
        y = torch.where(below, low + exp, torch.where(above, high - exp, x))
        return torch.where(both, low + (high - low) * x.sigmoid(), y)

    def _inverse(self, y: Tensor) -> Tensor:
        below, above, low, high = self._cases()
        both, one = below & above, below ^ above
        tiny = torch.finfo(y.dtype).tiny
        distance = torch.where(below, y - low, high - y)
        log = torch.where(one, distance, torch.ones_like(distance)).clamp_min(tiny).log()
        share = (y - low) / torch.where(both, high - low, torch.ones_like(low))
        eps = torch.finfo(y.dtype).eps
        logit = torch.where(both, share, torch.full_like(share, 0.5)).clamp(tiny, 1 - eps).logit()
        return torch.where(both, logit, torch.where(one, log, y))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """``log |dy/dx|``, shape of x."""
        below, above, low, high = self._cases()
        both = below & above
        width = torch.where(both, high - low, torch.ones_like(low))
        inside = width.log() + logsigmoid(x) + logsigmoid(-x)
        return torch.where(both, inside, torch.where(below ^ above, x, torch.zeros_like(x)))


@biject_to.register(BoundedInterval)
@transform_to.register(BoundedInterval)
def _interval_transform(constraint: BoundedInterval) -> IntervalTransform:
    return IntervalTransform(constraint.low, constraint.high)
