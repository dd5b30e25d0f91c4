"""A logistic law, or a mixture of them, rounded to the levels 0 … L-1 with both tails folded in."""

from __future__ import annotations

from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

__all__ = ["DiscretisedLogistic"]


@final
class DiscretisedLogistic(TorchDistribution):
    r"""A mixture of logistics on the integers, with open cells at both ends.

    \(P(y) = \sum_k w_k [F((y + \tfrac12 - m_k)/s_k) - F((y - \tfrac12 - m_k)/s_k)]\) for y = 0 … L-1, F the
    logistic function, where the lower end of cell 0 is -∞ and the upper end of cell L-1 is ∞. The
    probabilities therefore sum to one exactly. They are formed from
    \(\log(F(a) - F(b)) = \log F(a) + \log F(-b) + \log(1 - e^{-(a-b)})\), which does not cancel in the tails.

    Shapes: every parameter is (*batch, K), the components last; a value is (*batch).

    Args:
        loc: means m, in levels.
        scale: scales s > 0, in levels.
        levels: number of levels L, at least 2.
        logits: log-weights of the components, up to a constant; equal weights when None.
        validate_args: check parameters and values.

    Raises:
        ValueError: fewer than two levels, or parameters outside their support.

    References:
        Salimans, Karpathy, Chen, Kingma, 2017, PixelCNN++: Improving the PixelCNN with discretized logistic
        mixture likelihood and other modifications.

    Example:
        >>> law = DiscretisedLogistic(torch.tensor([3.0, 11.0]), torch.tensor([0.8, 1.5]), 17)
        >>> round(float(law.log_prob(torch.arange(17.0)).exp().sum()), 4)
        1.0
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
        "logits": constraints.independent(constraints.real, 1),
    }
    has_rsample = False

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        levels: int,
        logits: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if levels < 2:
            raise ValueError(f"DiscretisedLogistic: expected at least 2 levels, got {levels}")
        logits = torch.zeros_like(loc) if logits is None else logits
        self.loc, self.scale, self.logits = torch.broadcast_tensors(loc, scale, logits)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], torch.Size(), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """The integers 0 … L-1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretisedLogistic:
        """The same law with a larger batch shape."""
        new = self._get_checked_instance(DiscretisedLogistic, _instance)
        shape = torch.Size(batch_shape) + self.loc.shape[-1:]
        new.loc, new.scale, new.logits = (t.expand(shape) for t in (self.loc, self.scale, self.logits))
        new.levels = self.levels
        super(DiscretisedLogistic, new).__init__(torch.Size(batch_shape), torch.Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the levels `value` (*batch), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        y = value.to(self.loc.dtype)[..., None]
        upper, lower = (y + 0.5 - self.loc) / self.scale, (y - 0.5 - self.loc) / self.scale
        below = logsigmoid(upper)  # log P(Y <= y)
        above = logsigmoid(-lower)  # log P(Y >= y)
        cell = below + above + _log1mexp(1 / self.scale)
        cell = torch.where(y <= 0, below, torch.where(y >= self.levels - 1, above, cell))
        return torch.logsumexp(cell + self.logits.log_softmax(-1), -1)

    def sample(self, sample_shape: Any = None) -> Tensor:
        """Levels of shape (*sample_shape, *batch), as floating-point numbers."""
        shape = self._extended_shape(torch.Size() if sample_shape is None else torch.Size(sample_shape))
        with torch.no_grad():
            logits = self.logits.expand(*shape, -1)
            k = torch.distributions.Categorical(logits=logits).sample()[..., None]
            loc, scale = (t.expand(*shape, -1).gather(-1, k)[..., 0] for t in (self.loc, self.scale))
            tiny = torch.finfo(loc.dtype).tiny
            noise = torch.rand_like(loc).clamp(min=tiny, max=1 - torch.finfo(loc.dtype).eps).logit()
            return (loc + scale * noise).round().clamp(0, self.levels - 1)


def _log1mexp(gap: Tensor) -> Tensor:
    """log(1 - exp(-gap)) for gap > 0, accurate at both ends, with finite gradients in the unused branch."""
    half = 0.6931471805599453
    small = (-torch.expm1(-gap.clamp(max=half))).log()
    return torch.where(gap < half, small, torch.log1p(-torch.exp(-gap.clamp(min=half))))
