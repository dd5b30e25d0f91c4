"""The ELBO of a pair with discrete latents, with a choice of estimators for the guide's gradient."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, final, get_args

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from evidentia.inference.objectives.combinations import Promise
from evidentia.inference.objectives.discrete_control import Baseline, ControlVariate
from evidentia.inference.objectives.discrete_rows import BITS_ONLY, SOFT, flat_logits, make_plan
from evidentia.inference.objectives.discrete_run import evaluate_rows
from evidentia.inference.objectives.discrete_sites import Block, check_one_layer, discrete_blocks
from evidentia.inference.objectives.nesting import run_pair
from evidentia.inference.objectives.objective import Objective
from evidentia.inference.objectives.plates import independent_plates, sample_sites
from evidentia.inference.objectives.site_checks import check_supported

__all__ = ["DiscreteELBO"]

EstimatorName = Literal[
    "reinforce",
    "nvil",
    "rloo",
    "arm",
    "disarm",
    "rebar",
    "relax",
    "local",
    "st",
    "st_gumbel",
    "rao_blackwell_st",
]
_ESTIMATORS: tuple[str, ...] = get_args(EstimatorName)
_TRAINED = ("nvil", "rebar", "relax")
_BIASED = ("st", "st_gumbel", "rao_blackwell_st")


@final
class DiscreteELBO(Objective):
    r"""The ELBO with one layer of discrete latents; the guide's gradient by a named estimator.

    With \(f(z)=\log p(x,z)-\log q(z)\) the value is \(\mathbb E_q f\). The guide runs once and gives the
    logits θ. The values an estimator asks for (antithetic copies, neighbours, relaxed bits) lie along the
    particle plate, the model runs once on all of them, and the loss gets \(\sum g\,\theta\) with the
    estimated gradient g detached. Within the plates that contain every site each element has its own f.

    | estimator | sites | evaluations of the model | |
    |---|---|---|---|
    | reinforce | all | n | unbiased, no baseline |
    | nvil | all | n | unbiased; a network of the logits is trained as baseline |
    | rloo | all | n ≥ 2 | unbiased, mean of the other draws as baseline |
    | arm, disarm | Bernoulli | 2n (n antithetic pairs) | unbiased; disarm never has the larger variance |
    | rebar | Bernoulli | 3n | unbiased; the model must accept and differentiate soft values |
    | relax | Bernoulli | n | unbiased; a network is trained as control variate |
    | local | all | n (1 + number of neighbours in one plate element) | unbiased, exact in each coordinate |
    | st, st_gumbel, rao_blackwell_st | Bernoulli, OneHotCategorical | n | biased; the model must be \
differentiable in the values |

    "rebar" and "relax" train their scale η, temperature λ and network on the square of the gradient, whose
    mean is its variance up to a constant, "nvil" its network on the squared error of the baseline. These
    parameters live in `control_variate` and are offered to
    Pyro as the module "control_variate", so that `fit` and `SVI` train them beside the pair's. They are made
    on the first call with gradients. To go on from a saved state give the same objective to `fit` again.

    Args:
        estimator: see the table.
        num_particles: n draws (pairs for "arm" and "disarm").
        temperature: τ of the Gumbel estimators; λ at the start for "rebar" and "relax".
        num_redraws: of "rao_blackwell_st".
        hidden: width of the network of "relax" and "nvil".
        max_plate_nesting: number of plate dimensions of the pair; found by one more run when infinite.

    Raises:
        ValueError: an unknown estimator or an option out of its range.
        NotImplementedError: at the first call, a guide site of another law, or whose logits depend on
            another latent; a `GuideMessenger` guide.

    References:
        Mnih and Gregor, 2014. Neural variational inference and learning in belief networks.
        Kool, van Hoof and Welling, 2019. Buy 4 REINFORCE samples, get a baseline for free!
        Dong, Mnih and Tucker, 2020. DisARM: an antithetic gradient estimator for binary latent variables.
        Tucker et al., 2017. REBAR: low-variance, unbiased gradient estimates for discrete latent variable
        models.
        Grathwohl et al., 2018. Backpropagation through the void: optimizing control variates for black-box
        gradient estimation.
        Titsias and Lázaro-Gredilla, 2015. Local expectation gradients for black box variational inference.
        Paulus, Maddison and Krause, 2021. Rao-Blackwellizing the straight-through Gumbel-softmax gradient
        estimator.

    Example:
        >>> import pyro.distributions as dist
        >>> def model():
        ...     z = pyro.sample("z", dist.Bernoulli(0.5))
        ...     pyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     theta = pyro.param("theta", torch.tensor(1.0))  # the posterior's logit
        ...     pyro.sample("z", dist.Bernoulli(logits=theta))
        >>> objective = DiscreteELBO("local")
        >>> loss = objective.loss_and_grads(model, guide)
        >>> round(loss, 4), round(abs(pyro.param("theta").grad.item()), 4)
        (1.4238, 0.0)
    """

    def __init__(
        self,
        estimator: EstimatorName = "disarm",
        *,
        num_particles: int = 1,
        temperature: float = 0.5,
        num_redraws: int = 20,
        hidden: int = 32,
        max_plate_nesting: float = math.inf,
    ) -> None:
        if estimator not in _ESTIMATORS:
            close = difflib.get_close_matches(str(estimator), _ESTIMATORS, n=1)
            hint = f", did you mean {close[0]!r}?" if close else "."
            raise ValueError(
                f"estimator: unknown name {estimator!r}{hint} Fix: one of {', '.join(_ESTIMATORS)}"
            )
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        if estimator == "rloo" and num_particles < 2:
            raise ValueError(
                f"num_particles: estimator 'rloo' needs at least 2, got {num_particles}. Fix: num_particles=2"
            )
        if not temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {temperature}. Fix: 0.5")
        for name, count in (("num_redraws", num_redraws), ("hidden", hidden)):
            if count < 1:
                raise ValueError(f"{name}: expected a number >= 1, got {count}. Fix: {name}=20")
        self.estimator: str = estimator
        self.temperature, self.num_redraws, self.hidden = temperature, num_redraws, hidden
        self.control_variate: ControlVariate | Baseline | None = None
        self._layout: tuple[Any, Any, int, tuple[int, ...]] | None = None

    def __repr__(self) -> str:
        return f"DiscreteELBO({self.estimator!r}, num_particles={self.num_particles}): {self.promise.text}"

    @property
    def promise(self) -> Promise:
        """What value and gradient promise."""
        unbiased = self.estimator not in _BIASED
        text = "the gradient is unbiased for it" if unbiased else "the guide's gradient is biased"
        return Promise("lower", unbiased, f"the value is an unbiased estimate of the ELBO; {text}")

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the ELBO; its backward pass gives the gradient estimate (see the class).

        Args:
            model: a Pyro program.
            guide: a Pyro program.
            args: of both programs.
            kwargs: of both programs.

        Returns:
            Scalar, nats for the whole data set.

        References:
            none; see the class.
        """
        nesting, dims = self._structure(model, guide, args, kwargs)
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        blocks = discrete_blocks(guide_trace, dims, nesting)
        self._check_blocks(blocks)
        plan = make_plan(
            self.estimator,
            blocks,
            self.num_particles,
            temperature=self.temperature,
            num_redraws=self.num_redraws,
            control=self._control(blocks),
        )
        soft = self.estimator in SOFT
        log_p, log_q, plates = evaluate_rows(
            model, guide_trace, blocks, plan.rows, args, kwargs, nesting, soft
        )
        if plates.dims != dims:
            raise ValueError(
                f"plates: expected the dimensions {dims} of the first call, got {plates.dims}. Fix: a new "
                "objective for a pair whose plates change"
            )
        f = log_p - log_q
        value = f[: plan.num_draws].detach().mean(0).sum()
        loss = -plates.scale * value
        if not torch.is_grad_enabled():
            return loss
        if plan.gradients is None:
            ascent = f.mean(0).sum()
        else:
            gradients, raw = plan.gradients(f if self.estimator == "rebar" else f.detach())
            ascent = log_p[: plan.num_draws].mean(0).sum()
            for gradient, block in zip(gradients, blocks, strict=True):
                ascent = ascent + (gradient.detach() * block.logits).sum()
            if raw is not None:
                ascent = ascent - self._control_step(raw) / plates.scale
        return loss - plates.scale * (ascent - ascent.detach())

    def _structure(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, tuple[int, ...]]:
        """Number of plate dimensions and those of the independent plates, found once for each pair."""
        if self._layout is None or self._layout[0] != model or self._layout[1] != guide:
            if isinstance(poutine.unwrap(guide), Messenger):
                raise NotImplementedError(
                    f"guide: {type(poutine.unwrap(guide)).__name__} runs the model itself and is not "
                    "supported. Fix: a guide that is a program of its own"
                )
            nesting = int(self.nesting(model, guide, args, kwargs))
            with torch.no_grad(), poutine.block():
                model_trace, guide_trace = run_pair(model, guide, args, kwargs)
            check_supported(guide_trace)
            discrete_blocks(guide_trace, (), nesting)  # refuses other laws before anything else
            check_one_layer(guide, guide_trace, args, kwargs)
            sites = sample_sites(model_trace) + sample_sites(guide_trace)
            dims = independent_plates(sites, multi_sample=False).dims
            self._layout = (model, guide, nesting, dims)
        return self._layout[2], self._layout[3]

    def _check_blocks(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if self.estimator in BITS_ONLY and block.categorical:
                raise NotImplementedError(
                    f"site '{block.name}': estimator {self.estimator!r} is for Bernoulli sites only. Fix: "
                    "'rloo' or 'local'"
                )
            if self.estimator in SOFT and block.integer:
                raise NotImplementedError(
                    f"site '{block.name}': a Categorical value is an index and carries no derivative, which "
                    f"estimator {self.estimator!r} needs. Fix: OneHotCategorical, or 'rloo' or 'local'"
                )

    def _control(self, blocks: Sequence[Block]) -> ControlVariate | Baseline | None:
        if self.estimator not in _TRAINED or not torch.is_grad_enabled():
            return None
        width = flat_logits(blocks).shape[-1]
        like: dict[str, Any] = {"dtype": blocks[0].logits.dtype, "device": blocks[0].logits.device}
        if self.control_variate is None and self.estimator == "nvil":
            self.control_variate = Baseline(width, hidden=self.hidden, **like)
        elif self.control_variate is None:
            own = width if self.estimator == "relax" else None
            self.control_variate = ControlVariate(
                own, hidden=self.hidden, temperature=self.temperature, **like
            )
        if self.control_variate.width not in (None, width):
            raise ValueError(
                f"control_variate: it was made for {self.control_variate.width} bits in each element of the "
                f"independent plates, got {width}. Fix: a new objective for another pair"
            )
        pyro.module("control_variate", self.control_variate, update_module_params=True)
        return self.control_variate

    def _control_step(self, gradient: Tensor) -> Tensor:
        """A scalar whose gradient in the control variate's parameters is that of the squared gradient."""
        if self.control_variate is None:
            return gradient.new_zeros(())
        parameters = [p for p in self.control_variate.parameters() if p.requires_grad]
        slopes = torch.autograd.grad(
            gradient.square().sum(), parameters, retain_graph=True, allow_unused=True
        )
        total = gradient.new_zeros(())
        for slope, parameter in zip(slopes, parameters, strict=True):
            if slope is not None:
                total = total + (slope.detach() * parameter).sum()
        return total
