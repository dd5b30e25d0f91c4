"""Draws of a guide kept together with their log-weights, and equally weighted draws made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidentia.inference.evidence.importance import Programs, in_chunks, lent
from evidentia.inference.objectives.leaf_cut import Particles, run_particles
from evidentia.inference.objectives.plates import sample_sites
from evidentia.inference.training.fitted import Fit
from evidentia.inference.training.settings import own_generator

__all__ = ["ImportanceDraws", "SiteLayout", "importance_draws", "resampled_indices"]


class SiteLayout(NamedTuple):
    """How the value of a latent site is laid out in one run.

    Attributes:
        shape: of its value.
        plates: name of the plate of each dimension, or "" for one that is no plate.

    References:
        none; bookkeeping.
    """

    shape: tuple[int, ...]
    plates: tuple[str, ...]


class ImportanceDraws(NamedTuple):
    r"""K draws \(z_k \sim q\) with \(\log w_k = \log p(x, z_k) - \log q(z_k)\).

    Attributes:
        samples: site -> (K, *shape of one run), the model's latents in program order, constrained.
        log_weight: (K, *plates), nats: one per element of the plates that all sites share; (K,) where there
            are global latents.
        plates: names of these plates.
        layouts: site -> `SiteLayout`.
        pair: what was given, so that learned parameters are at hand.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
    """

    samples: Mapping[str, Tensor]
    log_weight: Tensor
    plates: tuple[str, ...]
    layouts: Mapping[str, SiteLayout]
    pair: Programs | Fit

    @property
    def model(self) -> Callable[..., Any]:
        """The model of the pair."""
        programs = self.pair.pair if isinstance(self.pair, Fit) else self.pair
        return programs[0]

    def resample(
        self, num_draws: int, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Equally weighted draws: each element of the shared plates is resampled by its own weights.

        Args:
            num_draws: how many.
            generator: torch's own when None.

        Returns:
            Site -> (num_draws, *shape of one run), and the log-weights of what was picked
            (num_draws, *plates).

        Raises:
            ValueError: as `resampled_indices`.

        References:
            Rubin, 1988, Using the SIR algorithm to simulate posterior distributions.
        """
        index = resampled_indices(self.log_weight, num_draws, generator)
        picked = {}
        for name, value in self.samples.items():
            layout = self.layouts[name]
            # Every latent lies in all the shared plates, wherever they are among its dimensions.
            places = [layout.plates.index(plate) for plate in self.plates]
            order = sorted(range(len(places)), key=places.__getitem__)
            own = index.permute(0, *(1 + axis for axis in order))
            shape = [num_draws] + [1] * len(layout.shape)
            for axis, place in zip(order, sorted(places), strict=True):
                shape[1 + place] = index.shape[1 + axis]
            picked[name] = value.gather(0, own.reshape(shape).expand(num_draws, *layout.shape))
        return picked, self.log_weight.gather(0, index)


def resampled_indices(log_weight: Tensor, num_draws: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Systematic resampling in each column: draw k is picked \(N w_k\) times in expectation, within one.

    With normalised weights and their running sum \(c\), pick the first k with \(c_k > (u + j) / N\) for
    j = 0 ... N - 1; the picks are then put in random order, column by column: columns are independent.

    Args:
        log_weight: (K, *plates), nats, up to a constant per column.
        num_draws: N.
        generator: torch's own when None.

    Returns:
        (N, *plates), indices into the K draws.

    Raises:
        ValueError: N < 1, or a column without a positive weight or with NaN or infinite ones.

    References:
        Rubin, 1988, Using the SIR algorithm to simulate posterior distributions.
        Douc, Cappé and Moulines, 2005, Comparison of resampling schemes for particle filtering.

    Example:
        >>> weight = torch.tensor([[0.5, 0.0], [0.5, 1.0]])
        >>> resampled_indices(weight.log(), 4, torch.Generator().manual_seed(0)).sort(0).values.T.tolist()
        [[0, 0, 1, 1], [1, 1, 1, 1]]
    """
    if num_draws < 1:
        raise ValueError(f"num_draws: expected a number >= 1, got {num_draws}")
    columns = log_weight.reshape(len(log_weight), -1).T.double()
    top = columns.amax(-1, keepdim=True)
    bad = (~torch.isfinite(top.squeeze(-1))).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"log_weight: the largest of column {int(bad[0])} is {float(top[bad[0]])}, expected a finite "
            "one. "
            "Fix: a guide whose draws the model can have produced, or more particles"
        )
    total = (columns - top).exp().cumsum(-1)
    total = total / total[:, -1:]
    options: dict[str, Any] = {"dtype": torch.float64, "device": total.device, "generator": generator}
    start = torch.rand((len(total), 1), **options)
    points = (start + torch.arange(num_draws, dtype=torch.float64, device=total.device)) / num_draws
    # Rounding up to 1 would point behind the last draw.
    picked = torch.searchsorted(total, points.clamp(max=math.nextafter(1.0, 0.0)), right=True)
    order = torch.rand(picked.shape, **options).argsort(-1)
    return picked.gather(-1, order).T.reshape(num_draws, *log_weight.shape[1:])


def importance_draws(
    pair: Programs | Fit,
    *args: Any,
    num_particles: int = 1000,
    chunk_size: int | None = None,
    seed: int | None = None,
    max_plate_nesting: float = math.inf,
    **kwargs: Any,
) -> ImportanceDraws:
    """Draw from the guide and keep the draws with their log-weights.

    Args:
        pair: model and guide, or a `Fit`, whose parameters are then used.
        args: passed to both, as are further keywords.
        num_particles: draws K.
        chunk_size: draws at a time, to bound the memory; all at once when None.
        seed: seed of torch's generator, which is put back afterwards; None draws from the caller's.
        max_plate_nesting: depth of the programs' plates; found by a run of them when infinite.

    Returns:
        `ImportanceDraws`. `evidentia.inference.diagnostics.to_idata` turns them into InferenceData.

    Raises:
        ValueError: K or the chunk below 1, or the sites of model and guide do not match.
        NotImplementedError: a plate that not all sites share is subsampled.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("obs", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
        >>> draws = importance_draws((model, guide), torch.zeros(3), num_particles=50, seed=0)
        >>> draws.samples["z"].shape, draws.log_weight.shape, draws.plates
        (torch.Size([50, 3]), torch.Size([50, 3]), ('data',))
    """
    weights: list[Tensor] = []
    rows: dict[str, list[Tensor]] = {}
    with lent(pair) as programs, own_generator(seed):
        state = torch.get_rng_state()
        with torch.no_grad():
            # Only a run without particles tells a dimension of size 1 of a site from one of the particles.
            one = run_particles(*programs, args, kwargs, num_particles=1, cut=False)
        torch.set_rng_state(state)
        layouts = _layouts(one)
        for part in in_chunks(programs, args, kwargs, num_particles, chunk_size, max_plate_nesting):
            weights.append(part.log_weight)
            count = len(part.log_weight)
            for name, layout in layouts.items():
                value = part.guide_trace.nodes[name]["value"].detach()
                rows.setdefault(name, []).append(_without_particle_plate(name, value, count, layout))
    samples = {name: torch.cat(values) for name, values in rows.items()}
    return ImportanceDraws(samples, torch.cat(weights), one.plates.names, layouts, pair)


def _layouts(one: Particles) -> dict[str, SiteLayout]:
    """The latents of the model in program order, from a run without particles."""
    found = {}
    for site in sample_sites(one.model_trace):
        if site["is_observed"] or site["name"] not in one.guide_trace.nodes:
            continue
        shape = tuple(site["value"].shape)
        batch_ndim = len(shape) - int(site["fn"].event_dim)
        names = {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
        plates = [
            names.get(place - batch_ndim, "") if place < batch_ndim else "" for place in range(len(shape))
        ]
        found[site["name"]] = SiteLayout(shape, tuple(plates))
    return found


def _without_particle_plate(name: str, value: Tensor, count: int, layout: SiteLayout) -> Tensor:
    """(K, *shape of one run): the singleton dimensions between particles and the site's own are gone."""
    if value.numel() != count * math.prod(layout.shape):
        raise ValueError(
            f"site '{name}': {count} particles have shape {tuple(value.shape)}, expected {count} values of "
            f"shape {layout.shape}. Fix: the guide must draw this site anew in every particle"
        )
    return value.reshape(count, *layout.shape)
