"""The Pyro model of a family: structure, weights, noise and data in one generative program."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from pyro.poutine.runtime import am_i_wrapped
from torch import Size, Tensor

from evidentia.models.hyper import Hyper
from evidentia.models.likelihood import Likelihood
from evidentia.models.response import check_response_shape
from evidentia.models.structure.arguments import check_gates, check_inputs, check_weights
from evidentia.models.structure.errors import FamilyError
from evidentia.models.structure.evaluate import evaluate, live_ops
from evidentia.models.structure.structure import Structure
from evidentia.models.structure.weights import ARD

if TYPE_CHECKING:
    from evidentia.models.structure.family import Family


@final
class FamilyModel(PyroModule):
    """``Γ ~ prior, u ~ N(0, a), w = γ u, y ~ likelihood(f(x; w, Γ))``; made by ``Family.model``.

    =====================  ===========================  ==============================================
    site                   shape                        support, meaning
    =====================  ===========================  ==============================================
    ``gamma/x->f``         ``(K,)``                     log-simplex: ``log γ`` (domain ``simplex``)
    ``gamma/x->f``         ``()``                       ``0 … K-1`` (domain ``simplex_vertex``)
    ``gamma/x->f``         ``(K,)``                     real: ``logit γ`` (domain ``cube``)
    ``gamma/x->f/one``     ``()``                       0 or 1 (domain ``cube_vertex``), one per operation
    ``arch/x->f``          ``(K,)``                     deterministic: the gates γ themselves
    ``w/x->f/one/weight``  shape of the weight          real: the non-centred u
    ``variance/…``         shape of the weight          positive; sampled, or a param, or absent
    ``noise``              ``()``                       positive; sampled, or a param, or absent
    ``log_hyperprior``     ``()``                       factor, only when variances are params
    ``obs``                ``(n,)`` or ``(n, width)``   the response, in the plate ``data`` (dim -1)
    =====================  ===========================  ==============================================

    With a fixed structure there are no ``gamma`` sites, and the weights of dead operations have no sites.
    Batches of draws come from plates at dims ≤ -2, from ``Predictive(parallel=True)`` (with this plate as the
    only one), from ``TraceEnum_ELBO``, or from ``torch.func.vmap``. Relaxed gates have real parametrisations:
    ``biject_to`` of the log-simplex takes the K-1 log-ratios, so NUTS and automatic guides run on them
    unchanged.

    Args:
        family: the family.
        likelihood: law of the response.
        weight_prior: prior on the weights.
        structure: fixed structure, or None to sample it.

    Raises:
        ValueError: the likelihood cannot read the width of the output node.

    Example:
        >>> import pyro, torch
        >>> from evidentia.models.likelihood import Gaussian
        >>> from evidentia.models.structure.family import Family
        >>> from evidentia.models.structure.ops import GLM, Constant
        >>> ops = {"const": Constant(), "linear": GLM()}
        >>> family = Family(2).edge("x", "f", ops=ops, domain="simplex_vertex")
        >>> model = family.model(likelihood=Gaussian(scale=0.5))
        >>> pyro.set_rng_seed(0)
        >>> y = model(torch.randn(5, 2))
        >>> y.shape
        torch.Size([5])
        >>> sorted(pyro.poutine.trace(model).get_trace(torch.randn(5, 2), y).stochastic_nodes)
        ['data', 'gamma/x->f', 'w/x->f/const/weight', 'w/x->f/linear/weight']

    References:
        Bakhteev, 2020. Bayesian selection of a suboptimal structure of a deep learning model.
        Bingham et al., 2019. Pyro: deep universal probabilistic programming.
    """

    def __init__(
        self, family: "Family", likelihood: Likelihood, weight_prior: ARD, structure: Structure | None = None
    ) -> None:
        super().__init__()
        if not isinstance(likelihood, Likelihood):
            raise FamilyError(
                "model: argument 'likelihood' must be a Likelihood such as Gaussian(scale=0.5), got "
                f"{likelihood!r}."
            )
        if not isinstance(weight_prior, ARD):
            raise FamilyError(
                f"model: argument 'weight_prior' must be an ARD prior, got {type(weight_prior).__name__}."
            )
        self.family = family
        self.likelihood = likelihood
        self.weight_prior = weight_prior
        self.structure = structure
        self._plan = family.check()
        self._aggregates = dict(family._aggregates)
        likelihood.check_width(self._plan.widths[self._plan.output])
        names = family.gate_names
        live = [True] * len(names) if structure is None else live_ops(self._plan, structure.gates).tolist()
        self._live_gates = tuple((i, name) for i, name in enumerate(names) if live[i])
        self._weights = {
            f"{name}/{weight}": (name, self._plan.weight_shapes[f"{name}/{weight}"])
            for _, name in self._live_gates
            for weight in self._plan.op_weights[name]
        }

    @property
    def weight_shapes(self) -> dict[str, Size]:
        """Shape of each weight that has a site ``w/<name>``: all, or the live ones of a fixed structure."""
        return {name: shape for name, (_, shape) in self._weights.items()}

    @property
    def hyper(self) -> dict[str, Hyper]:
        """Hyperparameters given as ``Hyper``, by the name of their ``pyro.param``."""
        priors = {f"{key}/{e.name}": value for e in self._plan.edges for key, value in e.prior.hyper.items()}
        return {**self.likelihood.hyper, **(priors if self.structure is None else {})}

    def forward(self, x: Tensor, y: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Run the generative program.

        Args:
            x: inputs ``(n, num_inputs)``.
            y: response ``(n,)`` (``(n, width)`` for a Gaussian with several outputs); drawn from the prior
                predictive when None.
            size: number of rows of the whole data set when x and y are a minibatch; the log-likelihood is
                then scaled by ``size / n``.

        Returns:
            The response.

        Raises:
            FamilyError: x or y of the wrong shape.
        """
        self._check_data(x, y)
        gates = self._sample_gates(x)
        weights: dict[str, Tensor] = {}
        factor = x.new_zeros(())
        for name, (_, shape) in self._weights.items():
            variance = self.weight_prior.variance(name, shape, x)
            factor = factor + self._map_term(variance)
            law = dist.Normal(x.new_zeros(shape), variance.sqrt()).to_event(len(shape))
            weights[name] = _drop_data_dim(f"w/{name}", pyro.sample(f"w/{name}", law), len(shape))
        # outside of inference a factor has no meaning, and Pyro warns about it
        if self.weight_prior.learned and self.weight_prior.hyper == "param" and am_i_wrapped():
            pyro.factor("log_hyperprior", factor)
        noise = self.likelihood.noise(x)
        if noise is not None:
            noise = _drop_data_dim("noise", noise, 0)
        law = self.likelihood.distribution(self._value(x, gates, weights), noise)
        rows = None if size is None else torch.arange(x.shape[0], device=x.device)
        with pyro.plate("data", x.shape[0] if size is None else size, subsample=rows, dim=-1):
            return pyro.sample("obs", law, obs=y)

    def _map_term(self, variance: Tensor) -> Tensor:
        if self.weight_prior.learned and self.weight_prior.hyper == "param":
            return self.weight_prior.log_hyperprior(variance)
        return variance.new_zeros(())

    def _sample_gates(self, x: Tensor) -> Tensor:
        parts = []
        fixed = None if self.structure is None else self.structure.gates.to(dtype=x.dtype, device=x.device)
        for edge in self._plan.edges:
            if fixed is None:
                gates = edge.prior.sample(edge.name, tuple(edge.ops), x)
            else:
                gates = fixed[self._plan.slices[edge.name]]
            pyro.deterministic(f"arch/{edge.name}", gates, event_dim=1)
            parts.append(_drop_data_dim(f"gamma/{edge.name}", gates, 1))
        batch = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
        return torch.cat([p.expand((*batch, p.shape[-1])) for p in parts], -1)

    def _value(self, x: Tensor, gates: Tensor, weights: Mapping[str, Tensor], guard: bool = True) -> Tensor:
        by_name = {name: gates[..., i] for i, name in self._live_gates}
        coupled = {
            name: self.weight_prior.couple(weights[name], by_name[gate], shape)
            for name, (gate, shape) in self._weights.items()
        }
        return evaluate(self._plan, self._aggregates, x, by_name, coupled, guard=guard)

    def log_likelihood(
        self,
        x: Tensor,
        y: Tensor,
        gates: Tensor | None,
        weights: Mapping[str, Tensor],
        noise: Tensor | None = None,
        *,
        guard: bool = True,
    ) -> Tensor:
        """``log p(y_i | x_i, u, Γ)`` in nats per row, ``(*b, n)``; pure, vectorised, and usable under vmap.

        Args:
            x: inputs ``(n, num_inputs)``.
            y: response ``(n,)`` or ``(n, width)``.
            gates: ``(*b, num_gates)``; may be None when the structure is fixed.
            weights: the site values u, ``(*b, *shape)`` by weight name (without ``w/``).
            noise: noise parameter ``(*b)``; may be None when it is fixed or there is none.
            guard: keep an operation that is not finite away from the structures without it, see `evaluate`.

        Raises:
            FamilyError: shapes that do not fit, or a missing weight.
        """
        self._check_data(x, y)
        if gates is None:
            if self.structure is None:
                raise FamilyError(
                    "log_likelihood: argument 'gates' is needed, because the structure is not fixed."
                )
            gates = self.structure.gates.to(dtype=x.dtype, device=x.device)
        check_gates("model", gates, self.family.num_gates)
        check_weights("model", weights, self.weight_shapes)
        value = self._value(x, gates, weights, guard)
        return self.likelihood.distribution(value, noise, validate_args=False).log_prob(y)

    def log_weight_prior(
        self, weights: Mapping[str, Tensor], variances: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """``Σ log N(u; 0, a)`` in nats over all weights of the model, ``(*b)``; pure.

        Args:
            weights: the site values u, ``(*b, *shape)`` by weight name.
            variances: a by weight name; those of the prior's ``scale`` when None. The hyperprior is not
                included.

        Raises:
            FamilyError: a weight is missing, unknown, or of the wrong shape.
        """
        check_weights("model", weights, self.weight_shapes)
        extra = set(weights) - set(self._weights)
        if extra:
            raise FamilyError(f"log_weight_prior: the model has no weights {sorted(extra)}.")
        total: Tensor = torch.zeros(())
        for name, (_, shape) in self._weights.items():
            variance = None if variances is None else variances[name]
            total = total + self.weight_prior.log_prior(weights[name], shape, variance)
        return total

    def _check_data(self, x: Tensor, y: Tensor | None) -> None:
        check_inputs("model", x, len(self.family.inputs))
        if y is not None:
            expected = self.likelihood.response_shape(x.shape[0], self._plan.widths[self._plan.output])
            check_response_shape("model", x, y, expected, FamilyError)

    def __repr__(self) -> str:
        fixed = "" if self.structure is None else f", structure={self.structure.label!r}"
        return f"FamilyModel({self.likelihood!r}, {self.weight_prior!r}{fixed})\n{self.family!r}"


def _drop_data_dim(site: str, value: Tensor, event_dim: int) -> Tensor:
    """Remove the place of the plate ``data`` from the batch of a site outside of it."""
    if value.ndim == event_dim:
        return value
    position = -1 - event_dim
    if value.shape[position] != 1:
        raise FamilyError(
            f"site {site!r} has the batch shape {tuple(value.shape[: value.ndim - event_dim])}, but dim -1 "
            "belongs to the plate 'data'. Put outer plates at dim=-2 or further left."
        )
    return value.squeeze(position)
