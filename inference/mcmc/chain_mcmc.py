"""Many chains inside one kernel, under Pyro's own front end, with samples and diagnostics by chain."""

from __future__ import annotations

from typing import Any, final

import torch
from pyro.infer.mcmc.api import MCMC

from evidentia.inference.mcmc.batched import BatchedKernel

__all__ = ["ChainMCMC"]


@final
class ChainMCMC(MCMC):  # type: ignore[misc, unused-ignore]
    """`pyro.infer.MCMC` for a kernel that holds all its chains: after `run` they are chains to Pyro too.

    Plain `MCMC(kernel, num_chains=1)` runs such a kernel, but takes its chains for a dimension of every
    site. Here samples are (chains, draws, *event) with `group_by_chain=True`, and `summary`, `diagnostics`
    and `arviz.from_pyro` see one chain each.

    Args:
        kernel: any `BatchedKernel`.
        num_samples: draws of each chain.
        warmup_steps: transitions that adapt; as many as draws when None.
        options: other keywords of `pyro.infer.MCMC`, but for `num_chains`.

    Raises:
        ValueError: another kernel, or `num_chains` given here.

    References:
        Bingham et al., 2019, Pyro: deep universal probabilistic programming.

    Example:
        >>> import pyro
        >>> from pyro.distributions import Normal
        >>> from evidentia.inference.mcmc.hmc_kernel import HMC
        >>> def model():
        ...     pyro.sample("z", Normal(torch.zeros(3), 1.0).to_event(1))
        >>> kernel = HMC(model, num_chains=32, seed=0)
        >>> mcmc = ChainMCMC(kernel, num_samples=10, warmup_steps=30, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples(group_by_chain=True)["z"].shape
        torch.Size([32, 10, 3])
    """

    def __init__(
        self, kernel: BatchedKernel, num_samples: int, warmup_steps: int | None = None, **options: Any
    ) -> None:
        if not isinstance(kernel, BatchedKernel):
            raise ValueError(
                f"kernel: expected a BatchedKernel, got {type(kernel).__name__}. Fix: pyro.infer.MCMC"
            )
        if "num_chains" in options:
            raise ValueError("num_chains: the kernel has it. Fix: HMC(model, num_chains=64)")
        super().__init__(kernel, num_samples, warmup_steps=warmup_steps, num_chains=1, **options)

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Run all chains; the arguments are the model's."""
        self.num_chains = 1
        self._diagnostics: list[Any] = [None]
        super().run(*args, **kwargs)
        chains = self.kernel.num_chains
        if chains == 1:
            return
        samples: Any = self._samples
        self._samples: Any = {name: value[0].transpose(0, 1) for name, value in samples.items()}
        whole = self._diagnostics[0]
        columns = {k: v for k, v in whole.items() if isinstance(v, torch.Tensor) and v.dim() == 2}
        self._diagnostics = [
            {name: value[:, chain] for name, value in columns.items()}
            | {
                "divergences": columns["diverging"][:, chain].nonzero()[:, 0].tolist(),
                "acceptance rate": float(columns["acceptance_rate"][:, chain].mean()),
            }
            for chain in range(chains)
        ]
        self.num_chains = chains
