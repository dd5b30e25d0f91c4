"""The programs of an exported structure: an ordinary Pyro model, its guide, and a torch module."""

from collections.abc import Mapping
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from pyro.poutine.runtime import am_i_wrapped
from torch import Size, Tensor, nn
from torch.distributions import constraints

from evidentia.inference.structure.program import Program
from evidentia.models.likelihood import Likelihood
from evidentia.models.response import check_response_shape
from evidentia.models.structure.arguments import check_inputs
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.weights import ARD


@final
class KeptWeights:
    """Which entries of each weight are left after pruning, and how to put them back into place.

    Args:
        shapes: shape of each weight.
        kept: flat numbers of the entries that stay, by weight name; all where a name is missing.

    Example:
        >>> kept = KeptWeights({"w": torch.Size([2, 2])}, {"w": torch.tensor([1, 2])})
        >>> kept.fill("w", torch.tensor([5.0, 7.0]))
        tensor([[0., 5.],
                [7., 0.]])
    """

    def __init__(self, shapes: Mapping[str, Size], kept: Mapping[str, Tensor]) -> None:
        self.shapes = dict(shapes)
        self.kept = dict(kept)

    def size(self, name: str) -> Size:
        """Shape of the sample site: the weight's own, or ``(num_kept,)`` where something was pruned."""
        return Size([len(self.kept[name])]) if name in self.kept else self.shapes[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Weights with at least one entry left: those with a sample site."""
        return tuple(name for name in self.shapes if self.size(name).numel() > 0)

    @property
    def count(self) -> int:
        """Number of scalars that are left."""
        return sum(self.size(name).numel() for name in self.names)

    def fill(self, name: str, value: Tensor) -> Tensor:
        """The full weight ``(*b, *shape)`` from the site's value, pruned entries at 0."""
        if name not in self.kept:
            return value
        shape = self.shapes[name]
        full = value.new_zeros(*value.shape[:-1], shape.numel())
        full = full.index_copy(-1, self.kept[name].to(value.device), value)
        return full.reshape((*value.shape[:-1], *shape))

    def take(self, name: str, weight: Tensor) -> Tensor:
        """The entries that stay, from a full weight without batch dimensions."""
        return weight.flatten()[self.kept[name]] if name in self.kept else weight


@final
class ExportedModel(PyroModule):
    """``u ~ N(0, a)``, ``y ~ likelihood(f(x; u))`` for one structure; nothing of the family is left.

    =====================  =================================  =============================================
    site                   shape                              support
    =====================  =================================  =============================================
    ``w/x->f/one/weight``  shape of the weight, or (kept,)    real
    ``variance/…``         the same                           positive; sampled, or a param, or absent
    ``noise``              ``()``                             positive, only if it has a prior
    ``log_hyperprior``     ``()``                             factor, only when variances are params
    ``obs``                ``(n,)`` or ``(n, width)``         the response, in the plate ``data``
    =====================  =================================  =============================================

    Outer plates take dims ≤ -2. Weights are computed with in the dtype of x.

    Args:
        program: the compiled structure.
        likelihood: law of the response.
        variances: prior variance of each weight; with a hyperprior, where learning them starts.
        weight_prior: the family's, for its hyperprior.
        kept: which entries are left.

    References:
        Bingham et al., 2019. Pyro: deep universal probabilistic programming.
    """

    def __init__(
        self,
        program: Program,
        likelihood: Likelihood,
        variances: Mapping[str, Tensor],
        weight_prior: ARD,
        kept: KeptWeights,
    ) -> None:
        super().__init__()
        self.weight_prior = weight_prior
        self.program = program
        self.likelihood = likelihood
        self.variances = {name: kept.take(name, value).clone() for name, value in variances.items()}
        self.kept = kept

    def check(self, x: Tensor, y: Tensor | None = None) -> None:
        """Raise FamilyError unless x is ``(n, num_inputs)`` and y has the shape of the response."""
        check_inputs("exported model", x, self.program.num_inputs)
        if y is not None:
            expected = self.likelihood.response_shape(x.shape[0], self.program.width)
            check_response_shape("exported model", x, y, expected, FamilyError)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the program on inputs ``(n, d)``; the response is drawn when ``y`` is None.

        Raises:
            FamilyError: x or y of the wrong shape.
        """
        self.check(x, y)
        weights, prior = {}, self.weight_prior
        hyperprior = x.new_zeros(())
        params = prior.learned and prior.hyper == "param"
        for name in self.kept.shapes:
            shape = self.kept.size(name)
            value = x.new_zeros(shape)
            if shape.numel() > 0:
                variance = prior.variance(name, shape, x, self.variances[name])
                if params:
                    hyperprior = hyperprior + prior.log_hyperprior(variance)
                law = dist.Normal(x.new_zeros(shape), variance.sqrt()).to_event(len(shape))
                value = _without_data_dim(pyro.sample(f"w/{name}", law), len(shape)).to(x)
            weights[name] = self.kept.fill(name, value)
        if params and am_i_wrapped():  # as in the family's model
            pyro.factor("log_hyperprior", hyperprior)
        noise = self.likelihood.noise(x)
        if noise is not None:
            noise = _without_data_dim(noise, 0)
        law = self.likelihood.distribution(self.program(x, weights), noise)
        with pyro.plate("data", x.shape[-2], dim=-1):
            return pyro.sample("obs", law, obs=y)


@final
class ExportedGuide(PyroModule):
    """Independent Gaussians over the weights, log-normals over a noise and over variances that are sampled.

    All parameters are free.

    Args:
        kept: which entries are left.
        loc: initial means by weight name, without batch dimensions, full shape.
        scale: initial standard deviations, likewise.
        noise: initial location and scale of the log noise where the noise has a prior, else None.
        variance: initial location and scale of the log variances where they are sampled, else None.

    References:
        Graves, 2011. Practical variational inference for neural networks.
    """

    def __init__(
        self,
        kept: KeptWeights,
        loc: Mapping[str, Tensor],
        scale: Mapping[str, Tensor],
        noise: tuple[float, float] | None,
        variance: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.has_variance = variance is not None and kept.count > 0
        self.kept = kept
        self.has_noise = noise is not None
        extra = ([noise[0]], [noise[1]]) if noise is not None else ([], [])
        like = next(iter(loc.values())) if loc else torch.zeros(())
        locs = [kept.take(name, loc[name]).flatten() for name in kept.names]
        scales = [kept.take(name, scale[name]).flatten() for name in kept.names]
        if not locs and noise is None:
            return
        self.loc = PyroParam(torch.cat([*locs, like.new_tensor(extra[0])]).detach().clone())
        self.scale = PyroParam(
            torch.cat([*scales, like.new_tensor(extra[1])]).detach().clone(), constraints.positive
        )
        if variance is not None and self.has_variance:
            self.variance_loc = PyroParam(like.new_full((kept.count,), variance[0]))
            self.variance_scale = PyroParam(like.new_full((kept.count,), variance[1]), constraints.positive)

    def means(self) -> dict[str, Tensor]:
        """Mean of each weight, full shape, pruned entries at 0."""
        start, found = 0, {}
        loc: Any = self.loc if self.kept.names else None
        for name, full in self.kept.shapes.items():
            shape = self.kept.size(name)
            value = torch.zeros(shape)
            if shape.numel() > 0:
                value = loc[start : (start := start + shape.numel())].detach().reshape(shape)
            found[name] = self.kept.fill(name, value).reshape(full)
        return found

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Draw the weights (and the noise)."""
        found: dict[str, Tensor] = {}
        if not self.kept.names and not self.has_noise:
            return found
        loc: Any = self.loc
        scale: Any = self.scale
        start = 0
        for name in self.kept.names:
            shape = self.kept.size(name)
            part = slice(start, start + shape.numel())
            start = part.stop
            law = dist.Normal(loc[part].reshape(shape), scale[part].reshape(shape)).to_event(len(shape))
            found[f"w/{name}"] = pyro.sample(f"w/{name}", law)
            if self.has_variance:
                centre: Any = self.variance_loc
                width: Any = self.variance_scale
                spread: Any = dist.LogNormal(centre[part].reshape(shape), width[part].reshape(shape))
                found[f"variance/{name}"] = pyro.sample(f"variance/{name}", spread.to_event(len(shape)))
        if self.has_noise:
            found["noise"] = pyro.sample("noise", dist.LogNormal(loc[-1], scale[-1]))
        return found


@final
class ExportedModule(nn.Module):
    """The function of an exported structure at one value of its weights, ``x (n, d) -> (n, width)``.

    It computes in the dtype of x, whatever that of its parameters.

    Args:
        program: the compiled structure.
        weights: value of each weight, without batch dimensions.
    """

    def __init__(self, program: Program, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.program = program
        self.names = {name: name.replace(".", ":") for name in weights}
        self.weights = nn.ParameterDict(
            {self.names[name]: nn.Parameter(value.detach().clone()) for name, value in weights.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        """The value of the output node."""
        check_inputs("exported module", x, self.program.num_inputs)
        return self.program(x, {name: self.weights[key].to(x) for name, key in self.names.items()})

    def extra_repr(self) -> str:
        """The program, line by line."""
        return repr(self.program)


def _without_data_dim(value: Any, event_dim: int) -> Any:
    """Drop the place of the plate ``data`` from the batch of a site outside of it."""
    return value if value.ndim == event_dim else value.squeeze(-1 - event_dim)
