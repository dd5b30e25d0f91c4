"""Collapsed structure Gibbs as a kernel of `pyro.infer.MCMC`."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from evidentia.inference.mcmc.kernel import Kernel
from evidentia.inference.structure.gibbs_step import GibbsInfo, GibbsState, dispersed, init, make_target, step
from evidentia.inference.structure.gibbs_target import GibbsTarget, LogEvidenceFunction
from evidentia.inference.structure.linear import family_of


@final
class StructureGibbs(Kernel):
    """Collapsed structure Gibbs under `pyro.infer.MCMC`; samples are the structure sites of the model.

    Args:
        model: as in `structure_gibbs`.
        num_chains: batched inside; with one chain the samples have no chain dimension.
        seed: of the sweeps.
        log_evidence: for models without a closed form.

    References:
        George and McCulloch, 1997. Approaches for Bayesian variable selection.

    Example:
        >>> from evidentia.models.regression import NormalPrior, SubsetRegression
        >>> from pyro.infer import MCMC
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
        >>> kernel = StructureGibbs(SubsetRegression(["a", "b"], NormalPrior(noise_scale=0.5)))
        >>> mcmc = MCMC(kernel, num_samples=20, warmup_steps=5, disable_progbar=True)
        >>> mcmc.run(x, 2 * x[:, 0])
        >>> sorted(mcmc.get_samples())
        ['gamma/x->f/a', 'gamma/x->f/b']
    """

    def __init__(
        self,
        model: Any,
        *,
        num_chains: int = 1,
        seed: int = 0,
        log_evidence: LogEvidenceFunction | None = None,
    ) -> None:
        super().__init__(model)
        self.family = family_of(model)
        self.num_chains = num_chains
        self.seed = seed
        self._function = log_evidence
        self._target: GibbsTarget | None = None

    @property
    def target(self) -> GibbsTarget:
        """What is swept; known after `setup`."""
        if self._target is None:
            raise ValueError("StructureGibbs: no data yet; run it with MCMC(kernel, ...).run(x, y)")
        return self._target

    def init(self, *args: Any, **kwargs: Any) -> GibbsState:
        """Dispersed random structures."""
        self._target, _ = make_target(self.model, **_data(*args, **kwargs), log_evidence=self._function)
        return dispersed(self._target, self.family, self.num_chains, self.seed, None)

    def step(self, state: GibbsState) -> tuple[GibbsState, GibbsInfo]:
        """One sweep."""
        return step(state, self.target, self.family)

    def unpack(self, state: GibbsState) -> dict[str, Tensor]:
        """Structure sites."""
        sites: dict[str, Tensor] = {}
        begin = 0
        for edge in self.family.edges:
            part = state.position[:, begin : begin + len(edge.ops)]
            if edge.domain.is_cube:
                sites |= {f"gamma/{edge.name}/{name}": part[:, i] for i, name in enumerate(edge.ops)}
            else:
                sites[f"gamma/{edge.name}"] = part.argmax(-1).double()
            begin += len(edge.ops)
        return {name: value[0] if self.num_chains == 1 else value for name, value in sites.items()}

    def pack(self, state: GibbsState, params: dict[str, Tensor]) -> GibbsState:
        """The state at given structure sites."""
        parts = []
        for edge in self.family.edges:
            if edge.domain.is_cube:
                columns = [params[f"gamma/{edge.name}/{name}"].reshape(self.num_chains) for name in edge.ops]
                parts.append(torch.stack(columns, -1))
            else:
                index = params[f"gamma/{edge.name}"].reshape(self.num_chains).long()
                parts.append(torch.nn.functional.one_hot(index, len(edge.ops)))
        gates = torch.cat([part.double() for part in parts], -1)
        return init(gates, self.target, self.family, state.generator)


def _data(x: Any, y: Any) -> dict[str, Any]:
    """The arguments of `MCMC.run`, by position or by name."""
    return {"x": x, "y": y}
