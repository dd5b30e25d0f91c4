"""Priors on the cube: independent gates between 0 and 1."""

import math
from collections.abc import Sequence
from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from evidentia.models.distributions.logit_beta import LogitBeta
from evidentia.models.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from evidentia.models.structure.cube_priors import Numbers, bernoulli_log_mass, probabilities
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.prior import StructurePrior, positive_temperature, weights_of


@final
class RelaxedBernoulli(StructurePrior):
    """Independent relaxed Bernoulli gates on the cube; site ``gamma/<edge>`` holds ``logit γ``, support real.

    ``γ_r = σ((logit p_r + L_r)/τ)`` with logistic noise L. The mass of a vertex is the Bernoulli mass with
    the same probabilities, exact for the rounded law at every temperature.

    Args:
        temperature: τ > 0.
        probs: probability that a gate is above one half: one number, or one per operation, inside (0, 1).

    Raises:
        FamilyError: temperature not positive; probabilities outside (0, 1).

    Example:
        >>> import torch
        >>> RelaxedBernoulli(0.5, 0.25).log_mass(torch.tensor([1.0, 0.0])).exp()
        tensor(0.1875)

    References:
        Maddison, Mnih & Teh, 2017. The Concrete distribution.
    """

    domain = "cube"

    def __init__(self, temperature: float = 1.0, probs: Numbers = 0.5) -> None:
        self.temperature = positive_temperature("RelaxedBernoulli", temperature)
        self.probs = probs

    def check(self, owner: str, num_ops: int) -> None:
        """Probabilities strictly between 0 and 1."""
        probs = probabilities(owner, self.probs, num_ops)
        if not bool(((probs > 0) & (probs < 1)).all()):
            raise FamilyError(
                f"{owner}: probs={probs.tolist()} of a relaxed gate must lie strictly between 0 and 1. Leave "
                "an operation out, or use the domain 'cube_vertex'."
            )

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """Sum of Bernoulli log-masses."""
        return bernoulli_log_mass(gates, probabilities("RelaxedBernoulli", self.probs, gates.shape[-1]))

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """Logistic function of the site ``gamma/<edge>``."""
        logits = probabilities(f"edge {edge!r}", self.probs, len(ops)).logit()
        logits = logits.to(dtype=like.dtype, device=like.device)
        law = LogitRelaxedBernoulli(logits.new_tensor(self.temperature), logits).to_event(1)
        return pyro.sample(f"gamma/{edge}", law).sigmoid()

    def __repr__(self) -> str:
        return f"RelaxedBernoulli(temperature={self.temperature}, probs={self.probs})"


@final
class Beta(StructurePrior):
    """Independent gates ``γ_r ~ Beta(τ a, τ b)`` on the cube; site ``gamma/<edge>`` holds ``logit γ``.

    The mean is ``a/(a+b)``; for τ → 0 the gates are 0 or 1. The mass of a vertex is the Bernoulli mass with
    that mean, the limit for τ → 0.

    Args:
        temperature: τ > 0, multiplies a and b.
        a: weight of an open gate: one positive number, or one per operation.
        b: weight of a closed gate: likewise.

    Raises:
        FamilyError: temperature, a or b not positive, or of the wrong length.

    Example:
        >>> import torch
        >>> Beta(0.5, a=1.0, b=3.0).log_mass(torch.tensor([1.0, 0.0])).exp()
        tensor(0.1875)

    References:
        Figurnov, Mohamed & Mnih, 2018. Implicit reparameterization gradients.
    """

    domain = "cube"

    def __init__(self, temperature: float = 1.0, a: Numbers = 1.0, b: Numbers = 1.0) -> None:
        self.temperature = positive_temperature("Beta", temperature)
        self.a = a
        self.b = b

    def check(self, owner: str, num_ops: int) -> None:
        """Positive weights, one or one per operation."""
        weights_of(owner, "a", self.a, num_ops)
        weights_of(owner, "b", self.b, num_ops)

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """Sum of Bernoulli log-masses with probabilities ``a/(a+b)``."""
        a = weights_of("Beta", "a", self.a, gates.shape[-1])
        return bernoulli_log_mass(gates, a / (a + weights_of("Beta", "b", self.b, gates.shape[-1])))

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """Logistic function of the site ``gamma/<edge>``."""
        a = self.temperature * weights_of(f"edge {edge!r}", "a", self.a, len(ops), like)
        b = self.temperature * weights_of(f"edge {edge!r}", "b", self.b, len(ops), like)
        return pyro.sample(f"gamma/{edge}", LogitBeta(a, b).to_event(1)).sigmoid()

    def __repr__(self) -> str:
        return f"Beta(temperature={self.temperature}, a={self.a}, b={self.b})"


@final
class LogitNormal(StructurePrior):
    """Independent gates ``γ_r = σ(x_r/τ)``, ``x_r ~ N(loc, scale²)``, on the cube.

    The site ``gamma/<edge>`` holds ``logit γ``, support real.

    The mass of a vertex is the Bernoulli mass with ``p = Φ(loc/scale)``, exact for the rounded law at every
    τ.

    Args:
        temperature: τ > 0.
        loc: mean: one number, or one per operation.
        scale: standard deviation: one positive number, or one per operation.

    Raises:
        FamilyError: temperature or scale not positive, or a wrong number of entries.

    Example:
        >>> import torch
        >>> LogitNormal().log_mass(torch.tensor([1.0, 0.0])).exp()
        tensor(0.2500)

    References:
        Aitchison & Shen, 1980. Logistic-normal distributions: some properties and uses.
    """

    domain = "cube"

    def __init__(self, temperature: float = 1.0, loc: Numbers = 0.0, scale: Numbers = 1.0) -> None:
        self.temperature = positive_temperature("LogitNormal", temperature)
        self.loc = torch.as_tensor(loc, dtype=torch.float64)
        self.scale = torch.as_tensor(scale, dtype=torch.float64)

    def check(self, owner: str, num_ops: int) -> None:
        """One mean and one positive deviation, or one per operation."""
        weights_of(owner, "scale", self.scale, num_ops)
        if self.loc.ndim > 0 and self.loc.shape != (num_ops,):
            raise FamilyError(
                f"{owner}: loc has shape {tuple(self.loc.shape)} for {num_ops} operations; give one number, "
                "or one each."
            )

    def vertex_log_mass(self, gates: Tensor) -> Tensor:
        """Sum of Bernoulli log-masses with probabilities ``Φ(loc/scale)``."""
        probs = 0.5 * torch.erfc(-(self.loc / self.scale) / math.sqrt(2))
        return bernoulli_log_mass(gates, probs.expand(gates.shape[-1]))

    def sample(self, edge: str, ops: Sequence[str], like: Tensor) -> Tensor:
        """Logistic function of the site ``gamma/<edge>``."""
        loc, scale = (
            (v / self.temperature).expand(len(ops)).to(dtype=like.dtype, device=like.device)
            for v in (self.loc, self.scale)
        )
        return pyro.sample(f"gamma/{edge}", dist.Normal(loc, scale).to_event(1)).sigmoid()

    def __repr__(self) -> str:
        loc, scale = self.loc.tolist(), self.scale.tolist()
        return f"LogitNormal(temperature={self.temperature}, loc={loc}, scale={scale})"
