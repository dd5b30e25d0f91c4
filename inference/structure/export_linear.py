"""Export of one subset of a linear model: the plain regression, its exact posterior, and its torch module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from evidentia.models.linear.chosen import ChosenRegression, ExactGuide
from evidentia.models.pair import Pair
from evidentia.models.regression import SubsetRegression
from evidentia.models.response import check_tensors
from evidentia.models.structure.structure import Structure


@final
@dataclass(frozen=True, eq=False)
class ExportedRegression:
    """One subset on its own.

    Attributes:
        pair: the regression and its exact posterior as a guide.
        structure: which subset it is.

    References:
        Gelman et al., 2013. Bayesian data analysis, chapter 14.
    """

    pair: Pair
    structure: Structure

    @property
    def num_parameters(self) -> int:
        """Number of columns of the subset."""
        return len(self.pair.model.columns)  # type: ignore[attr-defined]

    @property
    def genotype(self) -> dict[str, Any]:
        """The structure as a JSON-able dict; ``Structure.from_genotype`` reads it back."""
        return self.structure.genotype()

    def retrain(self, x: Tensor, y: Tensor) -> ExportedRegression:
        """The same subset with the exact posterior given other data; nothing is approximated.

        Args:
            x: (n, K), all columns of the family.
            y: (n,).

        Raises:
            ValueError: x or y is no tensor, or has the wrong shape.
        """
        check_tensors("retrain", x=x, y=y)
        model: Any = self.pair.model
        return ExportedRegression(Pair(model, ExactGuide(model, x, y)), self.structure)

    def to_module(self, dtype: torch.dtype = torch.float64) -> torch.nn.Linear:
        """The regression function at the posterior mean, from all K columns, as a torch layer.

        Args:
            dtype: of the layer, that of the inputs it will be given; the posterior itself is float64.
        """
        model: Any = self.pair.model
        guide: Any = self.pair.guide
        layer = torch.nn.Linear(len(model.names), 1, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[0, list(model.columns)] = guide.loc
            layer.bias.fill_(float(guide.mean_intercept(guide.loc)) if guide.intercept else 0.0)
        return layer.to(dtype)

    def __repr__(self) -> str:
        return f"ExportedRegression({self.structure.label!r}, {self.num_parameters} parameters)"


def export_regression(
    model: SubsetRegression, structure: Structure, x: Tensor, y: Tensor
) -> ExportedRegression:
    """The regression on one subset with its exact posterior given data.

    Args:
        model: the regression on all subsets.
        structure: the subset.
        x: (n, K).
        y: (n,).

    Raises:
        ValueError: shapes that do not fit, or collinear columns under a g-prior.

    References:
        Liang, Paulo, Molina, Clyde and Berger, 2008. Mixtures of g priors for Bayesian variable selection.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
        >>> model = SubsetRegression(["a", "b"])
        >>> chosen = export_regression(model, model.family.structure("{a}"), x, 2 * x[:, 0] + 1)
        >>> chosen.to_module().weight.round(decimals=2)
        tensor([[1.6000, 0.0000]], dtype=torch.float64, grad_fn=<RoundBackward1>)
    """
    columns = [place for place, gate in enumerate(structure.gates.tolist()) if gate]
    chosen = ChosenRegression(model.names, columns, model.prior)
    return ExportedRegression(Pair(chosen, ExactGuide(chosen, x, y)), structure)
