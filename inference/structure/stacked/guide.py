"""Gaussian guides for many structures at once: one row of parameters per structure, pure functions of it.

Every tensor carries the structures as its second-to-last dimension, so S guides cost one computation. A
latent that a structure does not use (``active`` false) is held at 0 and contributes nothing to any density:
its guide *is* its prior, so its KL is zero and it has no gradient.
"""

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def deal(noise: Tensor, active: Tensor) -> Tensor:
    """Common random numbers, dealt to the active latents of each structure in order.

    The i-th active latent of *every* structure receives the i-th column of ``noise``. So a structure's noise
    does not depend on which structures stand beside it, nor on where its latents lie in the family's vector:
    two structures with identical operations get identical numbers, and evidences of different structures are
    positively correlated, which makes their differences more accurate than their error bars say.

    Args:
        noise: standard normal draws, ``(*draws, D)``.
        active: which latents a structure uses, ``(S, D)`` boolean.

    Returns:
        ``(*draws, S, D)``, zero where not active.

    References:
        Glasserman, 2003. Monte Carlo methods in financial engineering (chapter 4: common random numbers).

    Example:
        >>> active = torch.tensor([[True, False, True], [False, True, True]])
        >>> deal(torch.tensor([[1.0, 2.0, 3.0]]), active)
        tensor([[[1., 0., 2.],
                 [0., 1., 2.]]])
    """
    if bool(active.all()):
        return noise.unsqueeze(-2).expand(*noise.shape[:-1], *active.shape)
    rank = (active.cumsum(-1) - 1).clamp(min=0)
    return noise[..., rank] * active


class StackedGuide(ABC):
    """A Gaussian family whose parameters are rows of one matrix ``theta (S, size(D))``."""

    @abstractmethod
    def size(self, dim: int) -> int:
        """How many parameters one structure of ``dim`` latents has."""

    @abstractmethod
    def initial(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Parameters of the guide with the given location and standard deviation, both ``(S, D)``."""

    @abstractmethod
    def draw(self, theta: Tensor, noise: Tensor, active: Tensor) -> Tensor:
        """Reparameterised draws ``(*draws, S, D)`` from dealt noise of the same shape; 0 where not active."""

    @abstractmethod
    def log_density(self, theta: Tensor, value: Tensor, active: Tensor) -> Tensor:
        """``log q(value)`` over the active latents, in nats, ``(*draws, S)``."""

    @abstractmethod
    def moments(self, theta: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Location and standard deviation, each ``(S, D)``; 0 and 1 where not active."""


@final
class MeanField(StackedGuide):
    """Independent Gaussians: ``u_i ~ N(m_i, s_i²)``, parameters ``[m, log s]``.

    References:
        Graves, 2011. Practical variational inference for neural networks.

    Example:
        >>> guide, active = MeanField(), torch.ones(1, 2, dtype=torch.bool)
        >>> theta = guide.initial(torch.zeros(1, 2), torch.ones(1, 2))
        >>> guide.log_density(theta, torch.zeros(1, 2), active)
        tensor([-1.8379])
    """

    def size(self, dim: int) -> int:
        """``2 D``."""
        return 2 * dim

    def initial(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Rows ``[loc, log scale]``."""
        return torch.cat([loc, scale.log()], -1)

    def draw(self, theta: Tensor, noise: Tensor, active: Tensor) -> Tensor:
        """``m + s ε``."""
        loc, log_scale = theta.chunk(2, -1)
        return torch.where(active, loc + log_scale.exp() * noise, 0.0)

    def log_density(self, theta: Tensor, value: Tensor, active: Tensor) -> Tensor:
        """``Σ_i log N(u_i; m_i, s_i²)`` over the active latents."""
        loc, log_scale = theta.chunk(2, -1)
        standard = (value - loc) * torch.where(active, (-log_scale).exp(), 0.0)
        constant = torch.where(active, log_scale, 0.0).sum(-1) + 0.5 * LOG_2PI * active.sum(-1)
        return -0.5 * standard.square().sum(-1) - constant

    def moments(self, theta: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """``m`` and ``s``."""
        loc, log_scale = theta.chunk(2, -1)
        return torch.where(active, loc, 0.0), torch.where(active, log_scale.exp(), 1.0)


@final
class FullCovariance(StackedGuide):
    """One Gaussian with a dense covariance ``L Lᵀ`` per structure, ``L = diag(s) T``, parameters ``[m, T]``.

    ``T`` is lower triangular with a unit diagonal, whose place holds ``log s``: so one step changes a latent
    relative to its own scale. Rows and columns of latents that are not active are those
    of the identity. Costs ``D²`` memory per structure: meant for tens of weights.

    References:
        Kucukelbir et al., 2017. Automatic differentiation variational inference.

    Example:
        >>> guide, active = FullCovariance(), torch.ones(1, 2, dtype=torch.bool)
        >>> theta = guide.initial(torch.zeros(1, 2), torch.ones(1, 2))
        >>> guide.log_density(theta, torch.zeros(1, 2), active)
        tensor([-1.8379])
    """

    def size(self, dim: int) -> int:
        """``D + D (D + 1) / 2``."""
        return dim + dim * (dim + 1) // 2

    def initial(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Rows ``[loc, lower triangle]`` with a diagonal ``L``."""
        lower = torch.diag_embed(scale.log())
        rows, columns = torch.tril_indices(loc.shape[-1], loc.shape[-1], device=loc.device)
        return torch.cat([loc, lower[..., rows, columns]], -1)

    def draw(self, theta: Tensor, noise: Tensor, active: Tensor) -> Tensor:
        """``m + L ε``."""
        loc, lower = self._unpack(theta, active)
        return torch.where(active, loc + (lower @ noise.unsqueeze(-1)).squeeze(-1), 0.0)

    def log_density(self, theta: Tensor, value: Tensor, active: Tensor) -> Tensor:
        """``−½ ‖L⁻¹(u − m)‖² − log det L − (d/2) log 2π`` with ``d`` active latents."""
        loc, lower = self._unpack(theta, active)
        centred = torch.where(active, value - loc, 0.0)
        columns = centred.movedim(-2, 0).movedim(-1, 1).reshape(*active.shape, -1)
        standard = torch.linalg.solve_triangular(lower, columns, upper=False)
        squares = standard.square().sum(1).movedim(0, -1).reshape(value.shape[:-1])
        log_det = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * squares - log_det - 0.5 * LOG_2PI * active.sum(-1)

    def moments(self, theta: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """``m`` and the square roots of the diagonal of ``L Lᵀ``."""
        loc, lower = self._unpack(theta, active)
        return torch.where(active, loc, 0.0), lower.square().sum(-1).sqrt()

    def scale_tril(self, theta: Tensor, active: Tensor) -> Tensor:
        """The factors ``L``, ``(S, D, D)``."""
        return self._unpack(theta, active)[1]

    def _unpack(self, theta: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        dim = active.shape[-1]
        rows, columns = torch.tril_indices(dim, dim, device=theta.device)
        raw = theta.new_zeros(*theta.shape[:-1], dim, dim).index_put(
            (torch.arange(theta.shape[0], device=theta.device).unsqueeze(-1), rows, columns), theta[..., dim:]
        )
        both = active.unsqueeze(-1) & active.unsqueeze(-2)
        diagonal = torch.where(active, raw.diagonal(dim1=-2, dim2=-1).exp(), 1.0)
        strictly_lower = torch.where(both, raw, 0.0).tril(-1)
        return theta[..., :dim], diagonal.unsqueeze(-1) * (strictly_lower + torch.eye(dim).to(theta))


GUIDES: dict[str, StackedGuide] = {"mean_field": MeanField(), "full_covariance": FullCovariance()}
