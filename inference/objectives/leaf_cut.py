"""One run of guide and model on K particles, with the guide's samples cut off their parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor

from evidentia.inference.objectives.nesting import guess_max_plate_nesting, run_pair
from evidentia.inference.objectives.plates import (
    PARTICLE_PLATE,
    IndependentPlates,
    independent_plates,
    sample_sites,
)
from evidentia.inference.objectives.site_checks import (
    check_data,
    check_match,
    check_shapes,
    check_supported,
    is_delta,
)
from evidentia.inference.objectives.site_log_prob import SiteTerm, site_term

__all__ = ["Cut", "Leaf", "Particles", "run_particles"]


class Leaf(NamedTuple):
    """One reparameterised sample of the guide and its cut-off copy.

    Attributes:
        name: of the site.
        value: z, attached to the guide's parameters and to earlier leaves.
        leaf: the same numbers without history; all that comes later saw this tensor.
        event_dim: number of event dimensions on the right.
        scale: what multiplies the site's log-probability inside the log-weight (`poutine.scale`).
        particle: index of the particle when particles were run one by one, else None.

    References:
        none; bookkeeping.
    """

    name: str
    value: Tensor
    leaf: Tensor
    event_dim: int
    scale: Tensor | float = 1.0
    particle: int | None = None


@final
class Cut(Messenger):
    r"""Replace every reparameterised guide sample z by \(\bar z=\) `z.detach().requires_grad_()`.

    \(\partial\log q/\partial\bar z\) is then the path's part alone, whatever the guide's parameters do: a
    later site whose parameters depend on z still passes its gradient to \(\bar z\). Detaching distribution
    *parameters* instead would lose that term, and cannot reach parameters inside a flow.

    It must be the outermost handler, outside `poutine.trace`: Pyro post-processes from the outside in, and
    a trace further out would record the sample before the cut.

    Point masses are not cut: they are functions of samples that are.

    Args:
        path: make leaves; False only detaches.

    References:
        Roeder, Wu and Duvenaud, 2017. Sticking the landing.
        Bauer and Mnih, 2021. Generalized doubly reparameterized gradient estimators (the problem solved).

    Example:
        >>> import pyro.distributions as dist
        >>> loc = torch.tensor(1.0, requires_grad=True)
        >>> with Cut() as cut:
        ...     z = pyro.sample("z", dist.Normal(loc, 1.0))
        >>> z.is_leaf, cut.leaves[0].value.is_leaf
        (True, False)
    """

    def __init__(self, *, path: bool = True) -> None:
        super().__init__()
        self.path = path
        self.leaves: list[Leaf] = []

    def __enter__(self) -> Cut:
        self.leaves = []
        return super().__enter__()

    def _pyro_post_sample(self, msg: Any) -> None:
        fn, value = msg["fn"], msg["value"]
        if msg["is_observed"] or msg["infer"].get("_do_not_trace") or not isinstance(value, Tensor):
            return
        if not value.requires_grad or not getattr(fn, "has_rsample", False) or is_delta(fn):
            return
        leaf = value.detach()
        if self.path:
            leaf.requires_grad_()
            self.leaves.append(Leaf(msg["name"], value, leaf, len(fn.event_shape)))
        msg["value"] = leaf


class Particles(NamedTuple):
    r"""K particles of a pair, as log-probabilities (K, *plates) in nats.

    Attributes:
        log_p: \(\log p(x,z_k)\).
        log_q: \(\log q(z_k)\), all guide sites.
        log_q_reparam: its reparameterised part (and point masses and factors).
        log_q_other: its other part; None when every site is reparameterised.
        score_reparam: as `log_q_reparam`, without `poutine.scale`: the density of the draws.
        score_other: as `log_q_other`, without `poutine.scale`.
        leaves: in order of sampling; empty without a cut.
        plates: the independent plates and their scale.
        other_sites: names of the sites that are not reparameterised.
        model_trace: of the replayed model (of the first particle when run one by one).
        guide_trace: of the guide.

    References:
        none; bookkeeping.
    """

    log_p: Tensor
    log_q: Tensor
    log_q_reparam: Tensor
    log_q_other: Tensor | None
    score_reparam: Tensor
    score_other: Tensor | None
    leaves: tuple[Leaf, ...]
    plates: IndependentPlates
    other_sites: tuple[str, ...]
    model_trace: Any
    guide_trace: Any

    @property
    def log_weight(self) -> Tensor:
        r"""\(\log w_k=\log p-\log q\), (K, *plates), nats."""
        return self.log_p - self.log_q

    @property
    def tempered(self) -> bool:
        """Whether `poutine.scale` acts on some site of the guide."""
        return self.score_reparam is not self.log_q_reparam or self.score_other is not self.log_q_other


def run_particles(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    num_particles: int,
    max_plate_nesting: float = math.inf,
    cut: bool = True,
    path: bool = True,
    multi_sample: bool = True,
) -> Particles:
    r"""Draw K particles in one vectorised run of the guide and one replay of the model.

    The particles are one plate to the left of all others. Log-probabilities keep that dimension and the
    plates common to all sites; the rest is summed. The scale of the common plates (full size over batch
    size) is divided out and reported in `plates.scale`; what `poutine.scale` multiplies in stays, so an
    annealed pair has tempered weights.

    Args:
        model: a Pyro program.
        guide: a Pyro program, an autoguide, or a `GuideMessenger`.
        args: of both programs.
        kwargs: of both programs.
        num_particles: K ≥ 1; K = 1 runs without a plate and gets its leading dimension here.
        max_plate_nesting: number of plate dimensions; found by one more run when infinite.
        cut: cut the guide's samples (see `Cut`); ignored under `torch.no_grad`.
        path: make leaves of them; False only detaches.
        multi_sample: refuse a subsampled plate that does not contain every site.

    Returns:
        `Particles`.

    Raises:
        ValueError: K < 1, sites that do not match, NaN in the data, a flow that cannot be inverted.
        NotImplementedError: a subsampled plate that is not common, an enumerated or a rejection-sampled
            site.

    References:
        Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders.

    Example:
        >>> import pyro.distributions as dist
        >>> def model():
        ...     with pyro.plate("data", 3):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("obs", dist.Normal(z, 1.0), obs=torch.zeros(3))
        >>> def guide():
        ...     with pyro.plate("data", 3):
        ...         pyro.sample("z", dist.Normal(0.0, 0.5**0.5))
        >>> w = run_particles(model, guide, num_particles=2).log_weight
        >>> w.shape, bool((w - w[0, 0]).abs().max() < 1e-5)  # the guide is exact: every weight is equal
        (torch.Size([2, 3]), True)
    """
    kwargs = {} if kwargs is None else kwargs
    if num_particles < 1:
        raise ValueError(f"num_particles: expected a number >= 1, got {num_particles}. Fix: num_particles=1")
    nesting = 0
    run_model, run_guide = model, guide
    if num_particles > 1:
        if math.isinf(max_plate_nesting):
            max_plate_nesting = guess_max_plate_nesting(model, guide, args, kwargs)
        nesting = int(max_plate_nesting) + 1
        run_model = pyro.plate(PARTICLE_PLATE, num_particles, dim=-nesting)(model)
        run_guide = pyro.plate(PARTICLE_PLATE, num_particles, dim=-nesting)(guide)
    model_trace, guide_trace, leaves = _run(run_model, run_guide, guide, args, kwargs, cut, path)
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
    check_match(model_trace, guide_trace, (PARTICLE_PLATE,))
    check_supported(guide_trace)
    if is_validation_enabled():
        check_shapes(model_trace, guide_trace)
        check_data(model_trace)
    plates = independent_plates(model_sites + guide_sites, multi_sample=multi_sample)
    dims = plates.dims if num_particles == 1 else (-nesting, *plates.dims)
    depth = nesting if num_particles > 1 else max_plate_nesting

    def terms(sites: Sequence[dict[str, Any]], is_guide: bool) -> list[SiteTerm]:
        return [site_term(s, dims, plates.scale, depth, guide=is_guide) for s in sites]

    p_terms = terms(model_sites, False)
    reparam = terms([s for s in guide_sites if _is_reparam(s)], True)
    other = terms([s for s in guide_sites if not _is_reparam(s)], True)
    log_p = _total([t.log_prob for t in p_terms])
    q_reparam, q_other = _total([t.log_prob for t in reparam]), _total([t.log_prob for t in other])
    tempered = any(t.score is not t.log_prob for t in (*reparam, *other))
    log_q = q_reparam + q_other if reparam and other else (q_other if other else q_reparam)
    shape = log_p.shape
    # Nearly always the shapes agree already; broadcasting them costs more than the sums.
    if log_q.shape != shape or len(shape) != len(dims) or (num_particles > 1 and shape[0] != num_particles):
        lead = (num_particles,) if num_particles > 1 else ()
        shape = torch.broadcast_shapes(shape, log_q.shape, lead + (1,) * len(plates.dims))

    def whole(values: Tensor) -> Tensor:
        values = values if values.shape == shape else values.expand(shape)
        return values if num_particles > 1 else values[None]

    q_reparam = whole(q_reparam)
    q_other_whole = whole(q_other) if other else None
    scales = {t.name: t.scale for t in reparam}
    return Particles(
        log_p=whole(log_p),
        log_q=whole(log_q) if reparam and other else (q_reparam if q_other_whole is None else q_other_whole),
        log_q_reparam=q_reparam,
        log_q_other=q_other_whole,
        score_reparam=whole(_total([t.score for t in reparam])) if tempered else q_reparam,
        score_other=whole(_total([t.score for t in other])) if tempered and other else q_other_whole,
        leaves=tuple(leaf._replace(scale=scales.get(leaf.name, 1.0)) for leaf in leaves),
        plates=plates,
        other_sites=tuple(t.name for t in other),
        model_trace=model_trace,
        guide_trace=guide_trace,
    )


def _run(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    source: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    cut: bool,
    path: bool,
) -> tuple[Any, Any, list[Leaf]]:
    scissors = Cut(path=path)
    around = scissors if cut and torch.is_grad_enabled() else None
    model_trace, guide_trace = run_pair(model, guide, args, kwargs, source=source, around=around)
    return model_trace, guide_trace, scissors.leaves


def _is_reparam(site: dict[str, Any]) -> bool:
    """Whether a guide site's value carries its gradient; factors say so themselves."""
    return bool(getattr(site["fn"], "has_rsample", False))


def _total(values: Sequence[Tensor]) -> Tensor:
    total = None
    for value in values:
        total = value if total is None else total + value
    return torch.zeros(()) if total is None else total
