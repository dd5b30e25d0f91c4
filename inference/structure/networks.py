"""Evidence of many networks of one family, trained together: one Gaussian guide per structure, one loop."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from evidentia.inference.structure.stacked.evidence import derive_seed, estimate
from evidentia.inference.structure.stacked.family_target import family_target
from evidentia.inference.structure.stacked.guide import GUIDES, StackedGuide, deal
from evidentia.inference.structure.stacked.result import FailedStructures as FailedStructures
from evidentia.inference.structure.stacked.result import NetworkEvidence as NetworkEvidence
from evidentia.inference.structure.stacked.result import collect
from evidentia.inference.structure.stacked.state import Progress, State, from_dict, init
from evidentia.inference.structure.stacked.target import Target
from evidentia.inference.structure.stacked.training import Schedule, train
from evidentia.inference.validate import check_data
from evidentia.models.structure.model import FamilyModel

Callback = Callable[[Progress], bool | None]


def network_evidence(
    model: FamilyModel,
    x: Tensor,
    y: Tensor,
    gates: Tensor,
    *,
    guide: Literal["mean_field", "full_covariance"] = "mean_field",
    num_steps: int = 2000,
    num_particles: int = 2,
    learning_rate: float = 0.05,
    decay: float = 0.02,
    gradient_clip: float = 1e3,
    tolerance: float | None = None,
    window: int = 50,
    evidence_particles: int = 100,
    evidence_batches: int = 20,
    likelihood_power: float = 1.0,
    prior_weight: float = 1.0,
    hyper: Literal["auto", "fixed", "learned"] = "auto",
    initial_scale: float = 0.1,
    chunk_size: int = 512,
    seed: int = 0,
    callback: Callback | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> NetworkEvidence:
    r"""Evidence bounds of S structures of one family, all trained in one vectorised computation.

    For each structure k a Gaussian guide over the non-centred weights ``u`` maximises

    ``L_k = β E_q log p(y | x, γ_k u) − λ KL(q ‖ p)``,

    then independent batches of importance weights give the ELBO, the IWAE bound and their standard errors.
    All are evidences at the power ``β/λ``: the bound reported is ``L_k / λ ≤ log ∫ p(y|w)^{β/λ} p(w) dw``.
    One unimodal guide sees one mode: the exchange and sign symmetries of hidden units are not counted.

    The structures share their random numbers (see
    :func:`~evidentia.inference.structure.stacked.guide.deal`). A structure's result therefore depends neither
    on the structures beside it nor on ``chunk_size``, identical operations get identical evidence, and the
    errors of different structures are positively correlated.

    Where hyperparameters are learned, the bounds are on the evidence *at* the learned values, as in type-II
    maximum likelihood; the hyperprior is not added.

    Args:
        model: a family model with pure ``log_likelihood``.
        x: inputs ``(n, d)``.
        y: response.
        gates: structures ``(S, num_gates)``.
        guide: ``"mean_field"``, or ``"full_covariance"`` for up to some tens of weights.
        num_steps, num_particles, learning_rate, decay, gradient_clip: Adam; the rate falls geometrically to
            ``decay`` times itself; a gradient is clipped structure by structure.
        tolerance: stop a structure when the mean ELBO of a ``window`` of steps moved by less than this
            (nats).
        window: steps in a window.
        evidence_particles: K, importance draws per batch.
        evidence_batches: independent batches, at least 2.
        likelihood_power: β, the power of the likelihood.
        prior_weight: λ, the weight of the KL; λ > 1 acts as a smaller sample.
        hyper: learn the hyperparameters of each structure (noise ``Hyper``; ARD variances by their
            closed-form MAP update), keep them fixed, or ``"auto"``: learn exactly those the model declares.
        initial_scale: standard deviation of the initial means and of the initial guide, in prior deviations.
        chunk_size: structures evaluated together, bounds the memory.
        seed: same seed, same numbers.
        callback: called after each step; returns true to stop training.
        state: ``result.state`` or ``progress.state()`` of an earlier call with the same arguments; training
            goes on from there, bitwise.

    Returns:
        A :class:`NetworkEvidence`. A structure whose numbers are not finite is named in ``failed``.

    Raises:
        ValueError: gates of the wrong shape, an unknown guide, a power that is not positive, fewer than two
            batches, or a state of other structures.

    References:
        Burda, Grosse & Salakhutdinov, 2016. Importance weighted autoencoders.
        Graves, 2011. Practical variational inference for neural networks.
        Bakhteev & Strijov, 2018. Deep learning model selection of suboptimal complexity.

    Example:
        >>> from evidentia.models.likelihood import Gaussian
        >>> from evidentia.models.structure.family import Family
        >>> from evidentia.models.structure.ops import GLM, Constant
        >>> x = torch.linspace(-2, 2, 20).unsqueeze(-1)
        >>> family = Family(1).edge("x", "f", ops={"constant": Constant(), "tanh": GLM(activation="tanh")})
        >>> model = family.model(likelihood=Gaussian(0.2))
        >>> found = network_evidence(model, x, torch.tanh(x[:, 0]), family.vertices(), num_steps=200)
        >>> found.labels[int(found.iwae.argmax())], found.kind
        ('tanh', 'lower bound')
    """
    powers = {"likelihood_power": likelihood_power, "prior_weight": prior_weight}
    _check(model, gates, guide, hyper, powers, evidence_batches)
    counts = {
        "num_steps": num_steps,
        "num_particles": num_particles,
        "window": window,
        "evidence_particles": evidence_particles,
        "chunk_size": chunk_size,
    }
    _check_training(counts, learning_rate)
    check_data(x, y, model.family.inputs)
    model.likelihood.check_response(y, model.family.width)
    gates = gates.to(x)
    noise, update = _hyperparameters(model, hyper)
    target = family_target(model, x, y, gates, learn_noise=noise is not None)
    family = GUIDES[guide]
    schedule = Schedule(
        num_steps, num_particles, learning_rate, decay, gradient_clip, tolerance, window, chunk_size,
        likelihood_power / prior_weight, update,
    )  # fmt: skip
    start = _start(model, target, family, x, noise, initial_scale, seed)
    if state is not None:
        start = _resume(state, start, gates)
    watched = None if callback is None else _with_gates(callback, gates)
    final, stopped = train(target, family, schedule, start, watched)
    seed = derive_seed(seed, "evidence")
    found = estimate(target, family, final, schedule, evidence_particles, evidence_batches, seed)
    return collect(model, target, family, gates, final, stopped, schedule.power, found)


def _check_training(counts: Mapping[str, int], learning_rate: float) -> None:
    for name, count in counts.items():
        if count < (0 if name == "num_steps" else 1):
            raise ValueError(f"{name}: expected a positive number, got {count}.")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate: expected a positive number such as 0.05, got {learning_rate}.")


def _check(
    model: FamilyModel, gates: Tensor, guide: str, hyper: str, powers: Mapping[str, float], batches: int
) -> None:
    expected = model.family.num_gates
    if gates.ndim != 2 or gates.shape[-1] != expected or not len(gates):
        raise ValueError(
            f"gates: expected at least one structure, shape (S, {expected}), got {tuple(gates.shape)}. "
            "Take family.vertices(), or family.structure(label).gates.unsqueeze(0) for one structure."
        )
    fixed = model.structure
    if fixed is not None and not torch.equal(
        gates.cpu().double(), fixed.gates.double().expand(len(gates), -1)
    ):
        raise ValueError(
            f"model: its structure is fixed to {fixed.label!r}, but gates hold others. "
            "Build the model with structure=None."
        )
    if guide not in GUIDES:
        raise ValueError(f"guide: expected one of {sorted(GUIDES)}, got {guide!r}.")
    if hyper not in ("auto", "fixed", "learned"):
        raise ValueError(f"hyper: expected 'auto', 'fixed' or 'learned', got {hyper!r}.")
    for name, value in powers.items():
        if not 0 < value < float("inf"):
            raise ValueError(
                f"{name}: expected a positive finite number, got {value}. Maximum likelihood has no "
                "evidence; use a small positive prior_weight."
            )
    if batches < 2:
        raise ValueError(f"evidence_batches: expected at least 2 for a standard error, got {batches}.")


def _hyperparameters(
    model: FamilyModel, hyper: str
) -> tuple[float | None, Callable[[Tensor], Tensor] | None]:
    """The noise to start learning from and the update of the variances; None for what stays fixed."""
    noise, prior = model.likelihood.hyper.get("noise"), model.weight_prior
    if prior.learned and prior.hyper == "sample":
        raise ValueError(
            "weight_prior: sampled variances have no closed-form update. "
            'Use ARD(shape=, rate=, hyper="param"), or a fixed ARD(scale).'
        )
    if hyper == "learned" and noise is None and not prior.learned:
        raise ValueError(
            "hyper='learned': the model declares no hyperparameter. "
            "Use Gaussian(scale=Hyper(0.5)) or ARD(shape=, rate=), or hyper='auto'."
        )
    if hyper == "fixed":
        return None, None
    return None if noise is None else float(noise.value), prior.map_variance if prior.learned else None


def _start(
    model: FamilyModel,
    target: Target,
    guide: StackedGuide,
    x: Tensor,
    noise: float | None,
    scale: float,
    seed: int,
) -> State:
    structures, dim = target.active.shape
    generator = torch.Generator().manual_seed(derive_seed(seed, "initial"))
    raw = torch.randn(dim, generator=generator, dtype=x.dtype).to(x.device)
    deviation = x.new_full((structures, dim), scale)
    deviation[:, : target.num_weights] *= model.weight_prior.scale
    theta = guide.initial(deviation * deal(raw, target.active), deviation)
    if noise is not None:
        theta = torch.cat([theta, theta.new_full((structures, 1), noise).log()], -1)
    variance = x.new_full((structures, target.num_weights), model.weight_prior.scale**2)
    return init(theta, variance, derive_seed(seed, "training"))


def _resume(tensors: Mapping[str, Tensor], start: State, gates: Tensor) -> State:
    rest = dict(tensors)
    saved = rest.pop("gates", None)
    state = from_dict(rest)
    if saved is None or not torch.equal(saved.to(gates), gates) or state.theta.shape != start.theta.shape:
        raise ValueError(
            "state: it belongs to other structures, another guide or another choice of hyper. "
            "Resume with the arguments of the call that wrote it, or leave out state."
        )
    return state


def _with_gates(callback: Callback, gates: Tensor) -> Callback:
    def watched(progress: Progress) -> bool | None:
        return callback(progress._replace(state=lambda: progress.state() | {"gates": gates.clone()}))

    return watched
