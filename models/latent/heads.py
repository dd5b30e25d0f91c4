"""Heads: from the output of a decoder to the law of a datum whose pixels are independent given the latent."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.functional import softplus

from evidentia.models.distributions.discretised_logistic import DiscretisedLogistic
from evidentia.models.hyper import Hyper

__all__ = ["BernoulliHead", "CategoricalHead", "DiscretisedLogisticHead", "GaussianHead", "Head"]

_SCALE_FLOOR = 1e-3  # of half the range of levels: a narrower logistic is one level anyway


class Head(nn.Module, ABC):
    """The law of D pixels, one event, given the decoder's output; abstract.

    Shapes: the output (*batch, D * width), each pixel's numbers side by side; the law has batch shape
    (*batch) and event shape (D,).

    References:
        Kingma, Welling, 2014, Auto-encoding variational Bayes.
    """

    advice: str  # for messages: what values the head accepts, and what to use for others

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers that the decoder gives for one pixel."""

    @property
    def input_scale(self) -> float:
        """The largest value of a pixel: an encoder divides by it."""
        return 1.0

    @abstractmethod
    def pixels(self, output: Tensor, *, validate_args: bool | None = None) -> Any:
        """The law of each pixel from output (*batch, D, width); batch shape (*batch, D)."""

    def distribution(self, output: Tensor, *, validate_args: bool | None = None) -> Any:
        """The law of a datum from the decoder's output (*batch, D * width).

        Raises:
            ValueError: the output is not a multiple of `width`.
        """
        if output.shape[-1] % self.width:
            raise ValueError(
                f"{type(self).__name__}: expected a decoder output that is a multiple of {self.width}, got "
                f"{output.shape[-1]}. Fix: mlp(latent, hidden, data_width * head.width)"
            )
        pixels = self.pixels(output.unflatten(-1, (-1, self.width)), validate_args=validate_args)
        return pixels.to_event(1)

    def check(self, x: Tensor) -> None:
        """Refuse data that the head gives no probability, whether or not Pyro's validation is on.

        While a graph is captured the values cannot be read; the eager run before it has checked them.

        Args:
            x: (n, D).

        Raises:
            ValueError: a value outside the support.
        """
        if torch.compiler.is_compiling() or get_proxy_mode() is not None:
            return
        one = torch.zeros(1, self.width, dtype=torch.get_default_dtype(), device=x.device)
        good = self.pixels(one, validate_args=False).support.check(x) & torch.isfinite(x)
        if not bool(good.all()):
            row, column = (int(i) for i in (~good).nonzero()[0])
            raise ValueError(
                f"site 'obs': {int((~good).sum())} of {x.numel()} pixels are outside the support of "
                f"{type(self).__name__}, the first at row {row}, column {column}: {float(x[row, column])}. "
                f"Fix: {self.advice}"
            )


@final
class BernoulliHead(Head):
    r"""Binary pixels: \(P(x_d = 1) = 1 / (1 + e^{-o_d})\).

    Grey pixels are refused: the Bernoulli formula gives them a number, but it is no log probability.

    References:
        Kingma, Welling, 2014, Auto-encoding variational Bayes.
        Loaiza-Ganem, Cunningham, 2019, The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders.

    Example:
        >>> float(BernoulliHead().distribution(torch.zeros(2)).log_prob(torch.ones(2)).exp())
        0.25
    """

    width = 1
    advice = (
        "binarise the pixels, or use CategoricalHead(levels) or DiscretisedLogisticHead(levels) on integer "
        "grey levels"
    )

    def pixels(self, output: Tensor, *, validate_args: bool | None = None) -> Any:
        """`Bernoulli` with the output as log-odds."""
        return dist.Bernoulli(logits=output[..., 0], validate_args=validate_args)


@final
class CategoricalHead(Head):
    r"""Pixels with levels 0 … L-1: \(P(x_d = l) = \mathrm{softmax}(o_d)_l\).

    Args:
        levels: number of levels L, at least 2.

    Raises:
        ValueError: fewer than two levels.

    References:
        van den Oord, Kalchbrenner, Kavukcuoglu, 2016, Pixel recurrent neural networks.

    Example:
        >>> float(CategoricalHead(4).distribution(torch.zeros(8)).log_prob(torch.ones(2)).exp())
        0.0625
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = _checked_levels("CategoricalHead", levels)
        self.advice = f"give integer levels 0 … {levels - 1}, or set levels to the largest value plus one"

    @property
    def width(self) -> int:
        """One number for each level."""
        return self.levels

    @property
    def input_scale(self) -> float:
        """L - 1."""
        return float(self.levels - 1)

    def pixels(self, output: Tensor, *, validate_args: bool | None = None) -> Any:
        """`Categorical` with the output as logits."""
        return dist.Categorical(logits=output, validate_args=validate_args)

    def extra_repr(self) -> str:
        """Levels."""
        return f"levels={self.levels}"


@final
class DiscretisedLogisticHead(Head):
    r"""Pixels with levels 0 … L-1, near levels alike: a mixture of K logistics rounded to the levels.

    The output gives for each component (a, b, c): mean \(\tfrac{L-1}{2}(1 + a)\), scale
    \(\tfrac{L-1}{2}(\mathrm{softplus}(b) + 10^{-3})\) and, when K > 1, log-weight c.

    Args:
        levels: number of levels L, at least 2.
        components: number of logistics K for each pixel.

    Raises:
        ValueError: fewer than two levels or no component.

    References:
        Salimans, Karpathy, Chen, Kingma, 2017, PixelCNN++: Improving the PixelCNN with discretized logistic
        mixture likelihood and other modifications.

    Example:
        >>> law = DiscretisedLogisticHead(17).distribution(torch.zeros(2))
        >>> round(float(law.log_prob(torch.arange(17.0)[:, None]).exp().sum()), 4)
        1.0
    """

    def __init__(self, levels: int, components: int = 1) -> None:
        super().__init__()
        self.levels = _checked_levels("DiscretisedLogisticHead", levels)
        if components < 1:
            raise ValueError(f"DiscretisedLogisticHead: expected at least 1 component, got {components}")
        self.components = components
        self.advice = f"give integer levels 0 … {levels - 1}, or set levels to the largest value plus one"

    @property
    def width(self) -> int:
        """Two numbers for a single logistic, three for each component of a mixture."""
        return 2 if self.components == 1 else 3 * self.components

    @property
    def input_scale(self) -> float:
        """L - 1."""
        return float(self.levels - 1)

    def pixels(self, output: Tensor, *, validate_args: bool | None = None) -> Any:
        """`DiscretisedLogistic` with one batch entry for each pixel."""
        half = (self.levels - 1) / 2
        parts = output.unflatten(-1, (self.width // self.components, self.components)).unbind(-2)
        loc, scale = half * (1 + parts[0]), half * (softplus(parts[1]) + _SCALE_FLOOR)
        logits = parts[2] if len(parts) == 3 else None
        return DiscretisedLogistic(loc, scale, self.levels, logits, validate_args=validate_args)

    def extra_repr(self) -> str:
        """Levels and components."""
        return f"levels={self.levels}, components={self.components}"


@final
class GaussianHead(Head):
    r"""Real pixels: \(x_d \sim N(o_d, \sigma^2)\) with one noise scale for all pixels.

    Args:
        scale: σ, a positive number (fixed) or a `Hyper` (learned, kept as its logarithm).

    Raises:
        ValueError: a scale that is not positive and finite.

    References:
        Tipping, Bishop, 1999, Probabilistic principal component analysis.

    Example:
        >>> GaussianHead(2.0).distribution(torch.zeros(5, 3)).event_shape
        torch.Size([3])
    """

    width = 1
    advice = "give finite numbers"

    def __init__(self, scale: float | Hyper = 1.0) -> None:
        super().__init__()
        value = scale.value if isinstance(scale, Hyper) else torch.tensor(float(scale))
        if value.dim() or not (float(value) > 0 and math.isfinite(float(value))):
            raise ValueError(f"GaussianHead: expected a positive number as scale, got {scale}")
        self.learned = isinstance(scale, Hyper)
        log_scale = value.log().to(torch.get_default_dtype())
        self.log_scale: Tensor
        if self.learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def scale(self) -> Tensor:
        """σ, positive."""
        return self.log_scale.exp()

    def pixels(self, output: Tensor, *, validate_args: bool | None = None) -> Any:
        """`Normal` around the output."""
        return dist.Normal(output[..., 0], self.scale, validate_args=validate_args)

    def extra_repr(self) -> str:
        """The noise scale."""
        kind = "learned" if self.learned else "fixed"
        return f"scale={float(self.scale.detach()):.4g}, {kind}"


def _checked_levels(name: str, levels: int) -> int:
    if levels < 2:
        raise ValueError(f"{name}: expected at least 2 levels, got {levels}. Fix: 17 for scikit-learn digits")
    return levels
