"""Observation models: from the value of a network node to the law of the response."""

from abc import ABC, abstractmethod
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from torch import Size, Tensor

from evidentia.models.hyper import Hyper as Hyper

Noise = Tensor | None


class Likelihood(ABC):
    """The law of the response given a node value; abstract.

    A likelihood has two parts. ``noise`` runs inside a Pyro model and returns the noise parameter (fixed,
    learned or sampled), or None when there is none. ``distribution`` is pure.

    Shapes: node value ``(*batch, n, width)``, noise ``(*batch)``, distribution batch ``(*batch, n)``.

    References:
        McCullagh & Nelder, 1989. Generalized linear models.
    """

    def noise(self, like: Tensor) -> Noise:
        """The noise parameter inside a Pyro model, with the dtype of ``like``; None when there is none."""
        return None

    @property
    def hyper(self) -> dict[str, Hyper]:
        """The hyperparameters by parameter name; empty when nothing is learned."""
        return {}

    @abstractmethod
    def distribution(self, value: Tensor, noise: Noise = None, *, validate_args: bool | None = None) -> Any:
        """The law of the response, a Pyro distribution with batch shape ``(*batch, n)``.

        Args:
            value: node value ``(*batch, n, width)``.
            noise: noise parameter ``(*batch)``; ignored where the likelihood has none.
            validate_args: False switches Pyro's checks off, which ``torch.func.vmap`` needs.

        Raises:
            ValueError: the node has a width that this likelihood cannot read.
        """

    def response_shape(self, num_rows: int, width: int) -> Size:
        """Shape of the response for this many rows and an output node of this width."""
        return Size([num_rows])

    def check_response(self, y: Tensor, width: int) -> None:
        """Refuse a response that this likelihood gives no probability, naming its first row.

        Args:
            y: response, of the shape `response_shape`.
            width: width of the output node.

        Raises:
            ValueError: a value outside the support.
        """
        one = y.new_ones((), dtype=torch.get_default_dtype())
        law = self.distribution(one.expand(len(y), width), one)
        good = law.support.check(y)
        if not bool(good.all()):
            row = int((~good).nonzero()[0, 0])
            raise ValueError(
                f"y: {int((~good).sum())} of {len(y)} values are outside the support of the likelihood "
                f"{type(self).__name__} ({law.support}), the first in row {row}: {y[row].tolist()}. "
                "Recode the response, or use another likelihood."
            )

    def check_width(self, width: int) -> None:
        """Raise ValueError when a node of this width cannot be read by the likelihood."""
        if width != 1:
            raise ValueError(
                f"likelihood {type(self).__name__}: expected an output node of width 1, got width {width}. "
                "Let every operation of the last edge have one output column, or use Gaussian or "
                "Categorical."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@final
class Gaussian(Likelihood):
    """``y ~ N(value, scale²)``, independently for each output column.

    Args:
        scale: standard deviation of the noise, in the unit of the response: a positive number (fixed), a
            ``Hyper`` (the ``pyro.param`` named ``noise``), or a distribution over positive numbers (the
            sample site ``noise``).

    Raises:
        ValueError: a fixed scale that is not positive and finite.

    Shapes: width 1 gives a response ``(n,)``; width d > 1 gives a response ``(n, d)``, one event per row.

    Example:
        >>> import torch
        >>> law = Gaussian(scale=2.0).distribution(torch.zeros(5, 1), torch.tensor(2.0))
        >>> law.batch_shape, round(law.log_prob(torch.zeros(5)).sum().item(), 4)
        (torch.Size([5]), -8.0604)

    References:
        Bishop, 2006. Pattern recognition and machine learning, chapter 3.
    """

    def __init__(self, scale: float | Hyper | Any = 1.0) -> None:
        if isinstance(scale, Tensor) and scale.ndim == 0:
            scale = float(scale)
        if isinstance(scale, int | float):
            if not 0 < float(scale) < float("inf"):
                raise ValueError(
                    f"Gaussian: argument 'scale' must be a positive number, got {scale}. Give a standard "
                    "deviation (not a variance or a logarithm), e.g. Gaussian(scale=0.5)."
                )
        elif not isinstance(scale, Hyper) and not hasattr(scale, "log_prob"):
            raise ValueError(
                "Gaussian: argument 'scale' must be a number, a Hyper or a distribution, got "
                f"{type(scale).__name__}. Write Gaussian(scale=0.5), Gaussian(scale=Hyper(0.5)) or "
                "Gaussian(scale=dist.HalfNormal(1.0))."
            )
        self.scale = scale

    @property
    def hyper(self) -> dict[str, Hyper]:
        """``{"noise": scale}`` when the scale is learned."""
        return {"noise": self.scale} if isinstance(self.scale, Hyper) else {}

    def noise(self, like: Tensor) -> Tensor:
        """The noise standard deviation: a constant, the param ``noise`` or the sample site ``noise``."""
        if isinstance(self.scale, Hyper):
            return self.scale.param("noise", like)
        if isinstance(self.scale, int | float):
            return torch.as_tensor(self.scale, dtype=like.dtype, device=like.device)
        return pyro.sample("noise", self.scale)

    def distribution(self, value: Tensor, noise: Noise = None, *, validate_args: bool | None = None) -> Any:
        """``Normal(value, noise)`` with batch ``(*batch, n)``."""
        if noise is None:
            if not isinstance(self.scale, int | float):
                raise ValueError(
                    "Gaussian: the noise scale is not fixed, so argument 'noise' is needed. Pass "
                    "noise=tensor(0.5), or build the likelihood with a number."
                )
            noise = torch.as_tensor(self.scale, dtype=value.dtype, device=value.device)
        if value.shape[-1] == 1:
            return dist.Normal(value[..., 0], noise[..., None], validate_args=validate_args)
        return dist.Normal(value, noise[..., None, None], validate_args=validate_args).to_event(1)

    def response_shape(self, num_rows: int, width: int) -> Size:
        """``(n,)`` for one column, ``(n, width)`` for several."""
        return Size([num_rows]) if width == 1 else Size([num_rows, width])

    def check_width(self, width: int) -> None:
        """Any width is accepted."""

    def __repr__(self) -> str:
        return f"Gaussian(scale={self.scale})"


@final
class Bernoulli(Likelihood):
    """``P(y = 1) = 1 / (1 + exp(-value))``, the node value being the log-odds; response ``(n,)`` of 0 and 1.

    Example:
        >>> import torch
        >>> Bernoulli().distribution(torch.zeros(3, 1)).probs
        tensor([0.5000, 0.5000, 0.5000])

    References:
        McCullagh & Nelder, 1989. Generalized linear models.
    """

    def distribution(self, value: Tensor, noise: Noise = None, *, validate_args: bool | None = None) -> Any:
        """``Bernoulli(logits=value)`` with batch ``(*batch, n)``."""
        self.check_width(value.shape[-1])
        return dist.Bernoulli(logits=value[..., 0], validate_args=validate_args)


@final
class Categorical(Likelihood):
    """``P(y = c) = softmax(value)_c``; response ``(n,)`` of class numbers ``0 … width - 1``.

    Example:
        >>> import torch
        >>> Categorical().distribution(torch.zeros(2, 4)).probs[0]
        tensor([0.2500, 0.2500, 0.2500, 0.2500])

    References:
        McCullagh & Nelder, 1989. Generalized linear models.
    """

    def distribution(self, value: Tensor, noise: Noise = None, *, validate_args: bool | None = None) -> Any:
        """``Categorical(logits=value)`` with batch ``(*batch, n)``."""
        self.check_width(value.shape[-1])
        return dist.Categorical(logits=value, validate_args=validate_args)

    def check_width(self, width: int) -> None:
        """At least two classes are needed."""
        if width < 2:
            raise ValueError(
                "likelihood Categorical: expected an output node with one column per class, got width "
                f"{width}. Give the last edge operations with as many units as there are classes, or use "
                "Bernoulli."
            )


@final
class Poisson(Likelihood):
    """``y ~ Poisson(exp(value))``, the node value being the log-rate; response ``(n,)`` of counts.

    Example:
        >>> import torch
        >>> Poisson().distribution(torch.zeros(2, 1)).rate
        tensor([1., 1.])

    References:
        McCullagh & Nelder, 1989. Generalized linear models.
    """

    def distribution(self, value: Tensor, noise: Noise = None, *, validate_args: bool | None = None) -> Any:
        """``Poisson(exp(value))`` with batch ``(*batch, n)``."""
        self.check_width(value.shape[-1])
        return dist.Poisson(value[..., 0].exp(), validate_args=validate_args)
