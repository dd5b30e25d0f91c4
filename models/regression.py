"""Linear regression on a subset of the columns: an ordinary Pyro model whose evidence is exact."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import constraints

from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.linear.prior import ConjugatePrior as ConjugatePrior
from evidentia.models.linear.priors import GPrior as GPrior
from evidentia.models.linear.priors import NormalInverseGamma as NormalInverseGamma
from evidentia.models.linear.priors import NormalPrior as NormalPrior
from evidentia.models.structure.family import Family
from evidentia.models.structure.ops import GLM
from evidentia.models.structure.prior import StructurePrior
from evidentia.models.structure.priors import Bernoulli


@final
class SubsetRegression(PyroModule):
    """y ~ N(α + Σ_j γ_j x_j u_j, σ²): which columns enter is a random subset γ ∈ {0,1}^K.

    ========================  ========  ==========================  ==========================================
    site                      shape     support                     present when
    ========================  ========  ==========================  ==========================================
    ``gamma/x->f/<name>``     ()        {0, 1}, enumerable          always, one per column
    ``w/x->f``                (K,)      real; u, the weights        always
    ``intercept``             ()        real, flat                  the prior has a flat intercept
    ``variance``              ()        positive, inverse-gamma     the noise is unknown, its prior proper
    ``log_variance``          ()        real, flat                  the noise is unknown, p(σ²) = 1/σ²
    ``arch/x->f``             (K,)      the gates, deterministic    always
    ``obs``                   (n,)      real, plate ``data``        always
    ========================  ========  ==========================  ==========================================

    Under a g-prior the weights are jointly normal given the gates; a closed gate's u is N(0, σ²), which
    leaves the evidence as it is because it integrates to one.

    Args:
        names: of the columns.
        prior: GPrior, NormalPrior or NormalInverseGamma; GPrior() when None.
        model_prior: prior on subsets, `Bernoulli(0.5)` (uniform) or `BetaBinomial(1, 1)`; uniform when None.

    Raises:
        ValueError: names repeat, a shape is wrong, or an improper site would have to be drawn.

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
        >>> model = SubsetRegression(["a", "b"], NormalPrior(1.0, noise_scale=0.5))
        >>> model.family.label(torch.tensor([1.0, 0.0]))
        '{a}'
        >>> model.conjugate(x, x[:, 0]).log_evidence(model.family.vertices()).argmax()
        tensor(1)
    """

    def __init__(
        self,
        names: Sequence[str],
        prior: ConjugatePrior | None = None,
        model_prior: StructurePrior | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.prior = GPrior() if prior is None else prior
        self.model_prior = Bernoulli(0.5) if model_prior is None else model_prior

    @cached_property
    def family(self) -> Family:
        """The family: one edge x->f on the vertices of the cube, one operation per column."""
        ops = {name: GLM(columns=[i]) for i, name in enumerate(self.names)}
        return Family(self.names).edge("x", "f", ops=ops, domain="cube_vertex", prior=self.model_prior)

    def conjugate(self, x: Tensor, y: Tensor) -> ConjugateRegression:
        """The same model with the weights and the noise integrated out, bound to data x (n, K), y (n,)."""
        self._check(x, y)
        return ConjugateRegression(self.prior, x, y)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the generative program on x (n, K); y (n,) is drawn when None."""
        self._check(x, y)
        prior, (edge,) = self.prior.resolve(len(x)), self.family.edges
        gates = edge.prior.sample(edge.name, self.names, x)
        pyro.deterministic(f"arch/{edge.name}", gates, event_dim=1)
        noise = self._noise(x)
        weights = pyro.sample(f"w/{edge.name}", self._weights(prior, x, gates, noise))
        value = (gates * weights).to(x) @ x.mT
        if value.dim() > 1:  # (*batch, 1, n): the place of the data plate holds the rows
            value = value.squeeze(-2)
        if prior.intercept:
            value = value + _flat("intercept", x)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("obs", dist.Normal(value, noise), obs=y)

    def _noise(self, x: Tensor) -> Tensor:
        law = self.prior.noise
        if law.scale is not None:
            return x.new_tensor(law.scale)
        if law.proper:
            return pyro.sample(
                "variance", dist.InverseGamma(x.new_tensor(law.shape), x.new_tensor(law.rate))
            ).sqrt()
        return (_flat("log_variance", x) / 2).exp()

    def _weights(
        self, prior: ConjugatePrior, x: Tensor, gates: Tensor, noise: Tensor
    ) -> pyro.distributions.TorchDistribution:
        if not isinstance(prior, GPrior):
            scale = prior.column_scale(x.shape[1]).to(x)
            return dist.Normal(x.new_zeros(x.shape[1]), noise[..., None] * scale).to_event(1)
        centred = x - x.mean(0) if prior.intercept else x
        precision = (
            gates[..., :, None] * (centred.mT @ centred * (1 / prior.shrinkage - 1)) * gates[..., None, :]
        )
        precision = precision + torch.diag_embed(1 - gates)
        return dist.MultivariateNormal(
            x.new_zeros(x.shape[1]), precision_matrix=precision / noise.square()[..., None, None]
        )

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        if x.dim() != 2 or x.shape[1] != len(self.names):
            raise ValueError(
                f"SubsetRegression: expected x (n, {len(self.names)}) with columns {list(self.names)}, "
                f"got {tuple(x.shape)}"
            )
        if y is not None and y.shape != x.shape[:1]:
            raise ValueError(
                f"SubsetRegression: expected y ({x.shape[0]},), got {tuple(y.shape)}; use y.flatten()"
            )

    def extra_repr(self) -> str:
        """Names and priors."""
        return f"{len(self.names)} columns, {self.prior!r}, {self.model_prior!r}"


class _Flat(dist.ImproperUniform):
    """Density 1 on the real line: it can be conditioned on or integrated, never drawn.

    The masked dry run by which `Predictive` finds shapes gets a zero that never reaches a result.
    """

    def __init__(self, site: str, batch_shape: torch.Size) -> None:
        super().__init__(constraints.real, batch_shape, torch.Size())
        self.site = site

    def expand(self, batch_shape: Any, _instance: object = None) -> _Flat:
        return _Flat(self.site, torch.Size(batch_shape))

    def sample(self, sample_shape: Any = None) -> Tensor:
        if poutine.get_mask() is False and not self.batch_shape:
            return torch.zeros(())
        raise ValueError(
            f"site {self.site!r} has a flat prior and cannot be drawn; condition on it, sample from the "
            "posterior with sample_weights, or use a proper prior such as NormalPrior(1.0)"
        )


def _flat(name: str, like: Tensor) -> Tensor:
    value: Tensor = pyro.sample(name, _Flat(name, torch.Size()))
    return value.to(like)
