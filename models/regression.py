"""Linear regression on a subset of the columns: an ordinary Pyro model whose evidence is exact."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import final

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.linear.prior import ConjugatePrior as ConjugatePrior
from evidentia.models.linear.priors import GPrior as GPrior
from evidentia.models.linear.priors import NormalInverseGamma as NormalInverseGamma
from evidentia.models.linear.priors import NormalPrior as NormalPrior
from evidentia.models.linear.program import flat, sample_noise, weight_law
from evidentia.models.response import check_response_shape
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
        >>> import torch
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
        noise = sample_noise(prior, x)
        weights = pyro.sample(f"w/{edge.name}", weight_law(prior, x, gates, noise))
        value = (gates * weights).to(x) @ x.mT
        if value.dim() > 1:  # (*batch, 1, n): the place of the data plate holds the rows
            value = value.squeeze(-2)
        if prior.intercept:
            value = value + flat("intercept", x)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("obs", dist.Normal(value, noise), obs=y)

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        if x.dim() != 2 or x.shape[1] != len(self.names):
            raise ValueError(
                f"SubsetRegression: expected x (n, {len(self.names)}) with columns {list(self.names)}, "
                f"got {tuple(x.shape)}"
            )
        if y is not None:
            check_response_shape("SubsetRegression", x, y, x.shape[:1])

    def extra_repr(self) -> str:
        """Names and priors."""
        return f"{len(self.names)} columns, {self.prior!r}, {self.model_prior!r}"
