"""Structures of models linear in their weights: exact evidence, exact draws, averaged predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.structure.sites import structure_sites
from evidentia.inference.validate import check_data, check_design
from evidentia.models.likelihood import Gaussian
from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.linear.priors import GPrior, NormalPrior
from evidentia.models.regression import SubsetRegression
from evidentia.models.response import check_response_shape
from evidentia.models.structure.family import Family
from evidentia.models.structure.model import FamilyModel

if TYPE_CHECKING:
    from evidentia.inference.structure.posterior import StructurePosterior


class Prediction(NamedTuple):
    """Model-averaged mean (n,) and standard deviation (n,) between structures of the mean.

    References:
        Hoeting, Madigan, Raftery and Volinsky, 1999. Bayesian model averaging: a tutorial.
    """

    mean: Tensor
    between: Tensor


def linear_problem(model: Any, x: Any, y: Any) -> ConjugateRegression:
    """The model with its weights (and unknown noise) integrated out, bound to data; everything is checked
    here.

    Args:
        model: SubsetRegression, or a FamilyModel with one edge whose operations are linear in their weights,
            Gaussian likelihood with a fixed scale and fixed ARD.
        x: (n, d).
        y: (n,).

    Raises:
        ValueError: bad data, a collinear design under a g-prior, or a model without a closed form: what
        prevents it.

    References:
        Bishop, 2006. Pattern recognition and machine learning, chapter 3.

    Example:
        >>> from evidentia.models.structure.ops import GLM
        >>> ops = {"line": GLM(), "slope and level": GLM(bias=True)}
        >>> family = Family(1).edge("x", "f", ops=ops, domain="simplex_vertex")
        >>> problem = linear_problem(family.model(likelihood=Gaussian(1.0)), [[1.0], [2.0]], [1.0, 2.0])
        >>> problem.widths
        [1, 2]
    """
    family = family_of(model)
    x, y = check_data(x, y, family.inputs)
    check_response_shape("exact evidence", x, y, x.shape[:1])
    if isinstance(model, SubsetRegression):
        if isinstance(model.prior, GPrior):
            check_design(x, family.inputs, intercept=model.prior.intercept)
        return model.conjugate(x, y)
    noise = _fixed_noise(model)
    design = family.design(x)
    prior = NormalPrior(model.weight_prior.scale, noise)
    return ConjugateRegression(prior, design.matrix, y, design.gate, family.num_gates)


def family_of(model: Any) -> Family:
    """The family of a model, or a ValueError.

    References:
        none; an accessor.

    Example:
        >>> family_of(SubsetRegression(["a", "b"])).inputs
        ('a', 'b')
    """
    family = getattr(model, "family", None)
    if not isinstance(family, Family):
        raise ValueError(
            f"model: expected a SubsetRegression or the model of a Family, got {type(model).__name__}; "
            "e.g. SubsetRegression(names) or family.model(likelihood=Gaussian(0.5))"
        )
    return family


def _fixed_noise(model: FamilyModel) -> float:
    """The known noise scale, or why the model has no closed form."""
    advice = "use evidence='elbo' or 'iwae'"
    if not isinstance(model.likelihood, Gaussian):
        raise ValueError(f"exact evidence needs a Gaussian likelihood, got {model.likelihood!r}; {advice}")
    if not isinstance(model.likelihood.scale, int | float):
        raise ValueError(
            f"exact evidence needs a fixed noise scale, got {model.likelihood!r}; "
            f"give Gaussian(0.5), or {advice}"
        )
    if model.weight_prior.learned or not model.weight_prior.coupled:
        raise ValueError(f"exact evidence needs ARD(scale) with w = γu, got {model.weight_prior!r}; {advice}")
    if model.structure is not None:
        raise ValueError("the structure of this model is fixed; build it without structure=")
    return float(model.likelihood.scale)


def sample_weights(model: Any, x: Any, y: Any, gates: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """One exact posterior draw of every site of the Pyro model per row of `gates`.

    With `gates` drawn from the structure posterior (`StructurePosterior.sample`) the draws are exact joint
    draws of structure and weights, ready for `pyro.infer.Predictive`.

    Args:
        model, x, y: as in `linear_problem`.
        gates: (draws, G), 0 or 1.
        seed: of the draws.

    Returns:
        site name -> (draws, *shape): the structure sites, `w/…`, and `intercept`, `variance` or
        `log_variance` where the model has them.

    Raises:
        ValueError: as in `linear_problem`.

    References:
        Hoeting, Madigan, Raftery and Volinsky, 1999. Bayesian model averaging: a tutorial.

    Example:
        >>> model = SubsetRegression(["a"], NormalPrior())
        >>> sorted(sample_weights(model, [[1.0], [2.0]], [1.0, 2.0], torch.ones(5, 1)))
        ['gamma/x->f/a', 'w/x->f']
    """
    problem, family = linear_problem(model, x, y), family_of(model)
    gates = gates.double()
    draw = problem.sample_weights(gates, torch.Generator().manual_seed(seed))
    (edge,) = family.edges
    sites = structure_sites(family, gates)
    if isinstance(model, SubsetRegression):
        sites[f"w/{edge.name}"] = draw.weight
        noise = model.prior.noise
        if model.prior.intercept:
            sites["intercept"] = draw.intercept
        if noise.scale is None:
            site = "variance" if noise.proper else "log_variance"
            sites[site] = draw.noise_scale.square() if noise.proper else 2 * draw.noise_scale.log()
        return sites
    start = 0
    for name, shape in family.weight_shapes.items():
        sites[f"w/{name}"] = draw.weight[:, start : start + shape.numel()].reshape(len(gates), *shape)
        start += shape.numel()
    return sites


def predict(posterior: StructurePosterior, x_new: Any, *, mass: float = 1 - 1e-9) -> Prediction:
    """E[y_new | data]: the posterior means Σ_M P(M) (α_M + x'β_M), for a g-prior β_M = (g/(1+g)) β̂_M.

    Args:
        posterior: of a linear model, from `enumerate_structures` or `structure_gibbs`.
        x_new: (n, d).
        mass: structures are averaged, most probable first, until their probability reaches it.

    Raises:
        ValueError: the posterior is not of a linear model, or bad x_new.

    References:
        Hoff, 2009. A first course in Bayesian statistical methods, chapter 9.

    Example:
        >>> from evidentia.inference.structure.enumerate import enumerate_structures
        >>> model = SubsetRegression(["a"], NormalPrior())
        >>> posterior = enumerate_structures(model, [[1.0], [2.0]], [1.0, 2.0])
        >>> predict(posterior, [[3.0]]).mean.shape
        torch.Size([1])
    """
    problem = posterior.problem
    if problem is None:
        raise ValueError(
            "predict: this posterior is not of a linear model; export a structure and predict with it"
        )
    x_new, _ = check_data(x_new, names=posterior.family.inputs)
    design = x_new
    if not isinstance(posterior.model, SubsetRegression):
        design = posterior.family.design(x_new).matrix
    order = posterior.probability.argsort(descending=True)
    weight = posterior.probability[order]
    keep = int((weight.cumsum(0) < mass).sum()) + 1
    order, weight = order[:keep], weight[:keep] / weight[:keep].sum()
    mean = torch.zeros(len(design), dtype=torch.float64)
    square = torch.zeros_like(mean)
    for part in torch.arange(len(order)).split(4096):
        fitted = problem.posterior_mean(posterior.gates[order[part]])
        values = fitted.intercept[:, None] + fitted.weight @ design.T
        mean = mean + weight[part] @ values
        square = square + weight[part] @ values.square()
    return Prediction(mean, (square - mean.square()).clamp_min(0).sqrt())
