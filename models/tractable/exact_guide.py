"""The exact posterior as a guide: with it every sample of the ELBO is the evidence."""

from __future__ import annotations

from typing import Any, Protocol, final

from torch import Tensor

from evidentia.models.pair import Pair

__all__ = ["ExactGuide", "Tractable", "exact_pair"]


class Tractable(Protocol):
    """A model of independent rows whose evidence and posterior are known.

    References:
        none; bookkeeping.
    """

    def __call__(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """The generative program."""

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of each row, (n,), in nats."""

    def sample_posterior(self, x: Tensor, *, size: int | None = None, **options: Any) -> Tensor:
        """The program that draws the latents of each row from the posterior."""


@final
class ExactGuide:
    r"""\(q(z_i \mid x_i) = p(z_i \mid x_i, \theta)\) at the model's current parameters.

    It has no parameters of its own: it reads the model's, under the model's names, so that an optimizer sees
    each of them once and \(\log p(x, z) - \log q(z \mid x) = \log p(x)\) holds for every z and every θ.

    Args:
        model: a model with `sample_posterior`.
        options: passed to `sample_posterior`.

    References:
        Tipping, Bishop, 1999, Probabilistic principal component analysis.

    Example:
        >>> import torch
        >>> from evidentia.models.tractable.ppca import ProbabilisticPCA
        >>> model = ProbabilisticPCA(torch.zeros(3), torch.ones(3, 1), 0.5)
        >>> ExactGuide(model)(torch.zeros(4, 3)).shape
        torch.Size([4, 1])
    """

    def __init__(self, model: Tractable, **options: Any) -> None:
        self.model, self.options = model, options

    def __call__(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Draw the latents of the rows x (n, D); `size` rows in all when x is a minibatch."""
        if x is None:
            raise ValueError(
                "ExactGuide: expected data x, got None; there is no posterior without data. "
                "Fix: draw from the model instead, model(size=...)"
            )
        return self.model.sample_posterior(x, size=size, **self.options)

    def __repr__(self) -> str:
        return f"ExactGuide({type(self.model).__name__}, {self.options})"


def exact_pair(model: Tractable, **options: Any) -> Pair:
    """A tractable model and its exact posterior.

    Args:
        model: a model with `sample_posterior`.
        options: passed to it, for instance `mean_field=True` for the best diagonal q of a linear-Gaussian
            model, which is exact only in the principal basis.

    Returns:
        The pair; both take `x` (n, D) and the keyword `size`.

    References:
        none; bookkeeping.

    Example:
        >>> import torch
        >>> from pyro.infer import Trace_ELBO
        >>> from evidentia.models.tractable.ppca import ProbabilisticPCA
        >>> model = ProbabilisticPCA(torch.zeros(3), torch.ones(3, 1), 0.5)
        >>> x = torch.ones(4, 3)
        >>> bound = -Trace_ELBO().loss(*exact_pair(model), x)
        >>> abs(bound - float(model.log_evidence(x).sum().detach())) < 1e-4
        True
    """
    return Pair(model, ExactGuide(model, **options))
