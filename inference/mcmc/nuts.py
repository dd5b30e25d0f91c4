"""Pyro's NUTS through one call: draws with their energies, and a state that continues bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.infer.autoguide.initialization import init_to_uniform
from torch import Tensor

from evidentia.inference.idata.draws import Draws
from evidentia.inference.mcmc.nuts_chain import Chain
from evidentia.inference.training.callbacks import CallbackLike, notify

__all__ = ["NutsStep", "nuts"]


class NutsStep(NamedTuple):
    """What a callback learns about one finished transition.

    Attributes:
        chain: the chain's number from 0.
        step: transitions of this chain so far, warm-up included.
        num_steps: transitions of a chain in all, warm-up included.
        warmup: whether this was a transition of the warm-up.
        divergences: divergent transitions of this chain after its warm-up.
        lp: log density on the unconstrained space in nats.

    References:
        none; bookkeeping.
    """

    chain: int
    step: int
    num_steps: int
    warmup: bool
    divergences: int
    lp: float


def nuts(
    model: Callable[..., Any],
    *args: Any,
    num_draws: int = 1000,
    warmup_steps: int = 1000,
    num_chains: int = 4,
    seed: int | None = None,
    target_accept_prob: float = 0.8,
    max_tree_depth: int = 10,
    full_mass: bool = False,
    max_plate_nesting: int | None = None,
    init_strategy: Callable[..., Any] = init_to_uniform,
    callbacks: Sequence[CallbackLike] = (),
    checkpoint_every: int | None = None,
    state: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Draws:
    r"""Draw from the posterior with the no-U-turn sampler; chains run one after the other.

    The Hamiltonian is \(H(z, r) = -\log p(z, y) + \tfrac12 r^\top M^{-1} r\) on the unconstrained space,
    Jacobians included. Each draw's `energy` is \(H\) after the momentum was drawn, which E-BFMI needs and
    Pyro does not keep. Discrete latents are summed out where the model can be enumerated; they have no draws.

    Args:
        model: a Pyro model; its parameters are taken from the parameter store, and not trained.
        args: the model's arguments, as are further keywords.
        num_draws: draws of each chain after the warm-up, those in `state` included.
        warmup_steps: transitions that adapt the step size and the mass matrix.
        num_chains: number of chains; each has a random stream of its own, made from `seed` and its number.
        seed: seed of the chains; drawn from torch's generator when None. The caller's generator is put back.
        target_accept_prob: raise it against divergences.
        max_tree_depth: limit on the doublings of a trajectory.
        full_mass: adapt a dense mass matrix instead of a diagonal one.
        max_plate_nesting: number of nested plates, for models with enumerated sites.
        init_strategy: Pyro's function that chooses the first position.
        callbacks: `on_step` with a `NutsStep`, `on_checkpoint` with the state, `on_end` with the draws.
        checkpoint_every: call `on_checkpoint` every that many transitions.
        state: the state of earlier draws with the same settings. A chain that was stopped in its warm-up
            starts again from its seed, so that the result is bitwise that of an uninterrupted run in any
            case.
        kwargs: keywords of the model.

    Returns:
        `Draws`. When a callback stopped the run, only the draws that every chain has.

    Raises:
        ValueError: a setting out of range, no valid first position, or a state that does not fit.

    References:
        Hoffman, Gelman, 2014, The No-U-Turn sampler: adaptively setting path lengths in Hamiltonian Monte
        Carlo. Betancourt, 2016, Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo.

    Example:
        >>> from pyro.distributions import Normal
        >>> def model():
        ...     pyro.sample("z", Normal(torch.zeros(2), 1.0).to_event(1))
        >>> nuts(model, num_draws=5, warmup_steps=20, num_chains=2, seed=0)
        Draws(sampler='nuts', chains=2, draws=5, stopped='max_steps', samples={'z': (2,)})
    """
    for name, value, least in (
        ("num_draws", num_draws, 1),
        ("warmup_steps", warmup_steps, 0),
        ("num_chains", num_chains, 1),
        ("max_tree_depth", max_tree_depth, 1),
    ):
        if value < least:
            raise ValueError(f"{name}: expected a number >= {least}, got {value}")
    if not 0.0 < target_accept_prob < 1.0:
        raise ValueError(f"target_accept_prob: expected between 0 and 1, got {target_accept_prob}")
    settings: dict[str, int] = {"num_chains": num_chains, "warmup_steps": warmup_steps}
    _check_state(state, settings)
    if state is not None:
        seed = int(state["seed"])
    elif seed is None:
        seed = int(torch.randint(2**31, ()))
    options = {
        "target_accept_prob": target_accept_prob,
        "max_tree_depth": max_tree_depth,
        "full_mass": full_mass,
        "max_plate_nesting": max_plate_nesting,
        "init_strategy": init_strategy,
    }
    chains = [Chain(model, args, kwargs, warmup_steps, options) for _ in range(num_chains)]

    def flat() -> dict[str, Any]:
        entries: dict[str, Any] = dict(settings) | {"seed": seed, "step": sum(chain.step for chain in chains)}
        for number, chain in enumerate(chains):
            entries |= {f"chain/{number}/{key}": value for key, value in chain.state().items()}
        return entries

    stopped: str | None = None
    store = pyro.get_param_store()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), store.scope(store.get_state()):
        for number, chain in enumerate(chains):
            prefix = f"chain/{number}/"
            saved = {k.removeprefix(prefix): v for k, v in (state or {}).items() if k.startswith(prefix)}
            torch.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
            chain.start(saved)
            while stopped is None and chain.num_draws < num_draws:
                # Out-of-support proposals are rejected by the sampler; validation would raise instead.
                with pyro.validation_enabled(False):
                    chain.advance()
                step = NutsStep(
                    number, chain.step, warmup_steps + num_draws, chain.warming, chain.divergences, chain.lp
                )
                stopped = notify(callbacks, "on_step", step) if callbacks else None
                if checkpoint_every is not None and chain.step % checkpoint_every == 0:
                    notify(callbacks, "on_checkpoint", flat())
            chain.suspend()
            if stopped is not None:
                # Later chains have not begun; what an earlier run drew of them stays in the state.
                for later, other in enumerate(chains[number + 1 :], number + 1):
                    prefix = f"chain/{later}/"
                    kept = {
                        k.removeprefix(prefix): v for k, v in (state or {}).items() if k.startswith(prefix)
                    }
                    other.keep(kept)
                break
    result = _collect(chains, flat(), stopped)
    notify(callbacks, "on_end", result)
    return result


def _check_state(state: Mapping[str, Any] | None, settings: Mapping[str, int]) -> None:
    if state is None:
        return
    for name, value in settings.items():
        if int(state.get(name, -1)) != value:
            raise ValueError(
                f"state: it was made with {name}={state.get(name)}, but {name}={value} was asked for. "
                "Fix: continue with the settings of the first run"
            )


def _collect(chains: Sequence[Chain], state: dict[str, Any], stopped: str | None) -> Draws:
    """Stack the draws that every chain has."""
    count = min(chain.num_draws for chain in chains)
    samples: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    for target, source in ((samples, "samples"), (stats, "stats")):
        for name in getattr(chains[0], source):
            rows = [torch.stack(getattr(chain, source)[name][:count]) for chain in chains if count]
            if rows:
                target[name] = torch.stack(rows)
    if not count:
        stats["lp"] = torch.zeros(len(chains), 0)
    return Draws(samples, stats, state, stopped or "max_steps", "nuts")
