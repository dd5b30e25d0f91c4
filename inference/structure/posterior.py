"""The posterior over structures: probabilities, inclusion, ties, and the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from evidentia.inference.evidence.comparison import Probabilities, posterior_probabilities
from evidentia.inference.evidence.log_evidence import Kind, LogEvidence, check_kind
from evidentia.inference.structure.batch_means import batch_means_error
from evidentia.inference.structure.scores import Scores, bic_scores
from evidentia.models.linear.conjugate_regression import ConjugateRegression
from evidentia.models.regression import SubsetRegression
from evidentia.models.structure.family import Family
from evidentia.models.structure.structure import Structure

if TYPE_CHECKING:
    import pandas as pd


@final
@dataclass(frozen=True, eq=False)
class StructurePosterior:
    """Posterior over the structures of a family; all evidences are of one kind.

    Probabilities are Σ-normalised exp(log evidence + log prior) over the listed structures, with
    delta-method errors. When there are `draws` (Gibbs), they are visit frequencies with Monte-Carlo errors
    by batch means.

    Attributes:
        family: of the structures.
        gates: (S, G), 0 or 1.
        log_evidence: (S,) nats, whole data set.
        standard_error: (S,).
        kind: of all the evidences.
        log_prior: (S,) log prior mass.
        draws: (chains, draws, G) from Gibbs, or None.
        model: the model of the family.
        problem: its conjugate form, when there is one.
        scores: from row numbers (R,) to `Scores`, evaluated only for the rows of a table.
        state: flat dict to continue a chain from, or None.
        network: the `NetworkEvidence` behind bounds, or None.
        data: x and y behind the evidences, or None.

    References:
        Hoeting, Madigan, Raftery and Volinsky, 1999. Bayesian model averaging: a tutorial.

    Example:
        >>> from evidentia.models.structure.ops import Constant, GLM
        >>> ops = {"flat": Constant(), "line": GLM()}
        >>> family = Family(1).edge("x", "f", ops=ops, domain="simplex_vertex")
        >>> posterior = StructurePosterior(
        ...     family, family.vertices(), torch.tensor([-3.0, -2.0]), torch.zeros(2), "exact",
        ...     family.log_prior(family.vertices()))
        >>> posterior.map.label, [round(p, 4) for p in posterior.probability.tolist()]
        ('line', [0.2689, 0.7311])
    """

    family: Family
    gates: Tensor
    log_evidence: Tensor
    standard_error: Tensor
    kind: Kind
    log_prior: Tensor
    draws: Tensor | None = None
    model: Any = None
    problem: ConjugateRegression | None = None
    scores: Callable[[Tensor], Scores] | None = None
    state: dict[str, Tensor] | None = None
    network: Any = None
    data: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        check_kind(self.kind)
        count = self.gates.shape[0]
        for name in ("log_evidence", "standard_error", "log_prior"):
            shape = tuple(getattr(self, name).shape)
            if shape != (count,):
                raise ValueError(
                    f"StructurePosterior: {name} has shape {shape}, expected ({count},): one per structure"
                )
        if self.kind == "exact" and bool((self.standard_error > 0).any()):
            raise ValueError("StructurePosterior: exact evidences have no standard error; fix the kind")

    @cached_property
    def _probabilities(self) -> Probabilities:
        if self.draws is None:
            return posterior_probabilities(self.log_evidence, self.standard_error, self.log_prior)
        visits = self._visits
        frequency = torch.bincount(visits.flatten(), minlength=len(self.gates)) / visits.numel()
        return Probabilities(frequency.double(), torch.full_like(frequency.double(), torch.nan))

    @cached_property
    def _visits(self) -> Tensor:
        """Row of `gates` of each draw, (chains, draws)."""
        if self.draws is None:
            raise ValueError("StructurePosterior: there are no draws; this posterior was enumerated")
        flat = self.draws.reshape(-1, self.draws.shape[-1]).to(torch.uint8)
        rows = {row.tobytes(): i for i, row in enumerate(self.gates.to(torch.uint8).numpy())}
        where = torch.tensor([rows[row.tobytes()] for row in flat.numpy()])
        return where.reshape(self.draws.shape[:2])

    @property
    def probability(self) -> Tensor:
        """Posterior probability of each structure, (S,)."""
        return self._probabilities.probability

    @cached_property
    def probability_se(self) -> Tensor:
        """Standard error of `probability`, (S,): delta method, or batch means of the visits."""
        if self.draws is None:
            return self._probabilities.standard_error
        return self._visit_error(torch.arange(len(self.gates)))

    def _visit_error(self, rows: Tensor) -> Tensor:
        if self.draws is None:
            return self.probability_se[rows]
        parts = [
            self._monte_carlo_error((self._visits[..., None] == part).double()) for part in rows.split(256)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    @staticmethod
    def _monte_carlo_error(draws: Tensor) -> Tensor:
        # an indicator that never moved was not seen to be certain: at least one draw's worth of doubt
        return batch_means_error(draws).clamp_min(1 / (draws.shape[0] * draws.shape[1]))

    @cached_property
    def map_index(self) -> int:
        """Row of the most probable listed structure (largest evidence × prior)."""
        return int((self.log_evidence + self.log_prior).argmax())

    @property
    def map(self) -> Structure:
        """The most probable structure; look at `ties` before calling it the winner."""
        return self.family.structure(self.gates[self.map_index])

    def evidence(self, row: int) -> LogEvidence:
        """The evidence of one structure."""
        k = self._pareto_k(torch.tensor([row]))
        diagnostics = {} if k is None else {"pareto_k": float(k[0])}
        return LogEvidence.checked(
            float(self.log_evidence[row]), float(self.standard_error[row]), self.kind, diagnostics
        )

    def inclusion(self) -> pd.DataFrame:
        """Posterior probability that each operation is on: columns op, probability, standard_error."""
        import pandas as pd

        if self.draws is not None:
            draws = self.draws.double()
            value, error = draws.mean((0, 1)), self._monte_carlo_error(draws)
        else:
            probability, on = self.probability, self.gates.double()
            spread = (probability * self.standard_error.double()).square()
            value, rest = probability @ on, probability @ (1 - on)
            # Σ_s P_s² s_s² (γ_s − value)², without cancellation near 0 and 1
            error = ((spread @ on) * rest.square() + (spread @ (1 - on)) * value.square()).sqrt()
        names = self.family.gate_names
        if len(self.family.edges) == 1:
            names = tuple(self.family.edges[0].ops)
        return pd.DataFrame(
            {"op": list(names), "probability": value.numpy(), "standard_error": error.numpy()}
        )

    def ties(self, tolerance: float = 1e-9, top: int = 1000) -> list[tuple[str, ...]]:
        """Classes of two or more structures whose evidences agree within `tolerance` nats, as labels.

        Identical base functions give such classes: the data cannot tell their members apart, and `map` is
        then one of several. Only the `top` most probable structures are searched.
        """
        rows = self._top(top)
        rows = rows[self.log_evidence[rows].argsort(descending=True)]
        gap = self.log_evidence[rows].diff().abs() > tolerance
        classes: list[list[int]] = []
        for row, fresh in zip(rows.tolist(), [True, *gap.tolist()], strict=True):
            if fresh:
                classes.append([])
            classes[-1].append(row)
        return [tuple(self._label(row) for row in sorted(group)) for group in classes if len(group) > 1]

    def table(self, top: int | None = None) -> pd.DataFrame:
        """One row per structure, the most probable first; `top` keeps the first rows.

        Columns: structure, log_evidence, standard_error, kind, log_prior, probability, probability_se,
        num_parameters, conditional_log_evidence, elpd_loo, elpd_loo_se (the last three NaN when they were
        not asked for); for networks also pareto_k: above 0.7 distrust an importance estimate and its error;
        under a g-prior also bic_log_bayes_factor, an approximation against the empty structure.
        """
        import pandas as pd

        rows = self._top(top)
        nothing = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        scores = Scores(nothing, nothing, nothing) if self.scores is None else self.scores(rows)
        k, bic = self._pareto_k(rows), bic_scores(self.problem, self.gates[rows])
        return pd.DataFrame(
            {
                "structure": [self._label(row) for row in rows.tolist()],
                "log_evidence": self.log_evidence[rows].numpy(),
                "standard_error": self.standard_error[rows].numpy(),
                "kind": self.kind,
                "log_prior": self.log_prior[rows].numpy(),
                "probability": self.probability[rows].numpy(),
                "probability_se": self._visit_error(rows).numpy(),
                "num_parameters": self.family.num_parameters(self.gates[rows]).numpy(),
                "conditional_log_evidence": scores.conditional_log_evidence.numpy(),
                "elpd_loo": scores.elpd_loo.numpy(),
                "elpd_loo_se": scores.elpd_loo_se.numpy(),
                **({} if k is None else {"pareto_k": k.numpy()}),
                **({} if bic is None else {"bic_log_bayes_factor": bic.numpy()}),
            }
        )

    def _pareto_k(self, rows: Tensor) -> Tensor | None:
        """Shape of the tail of the importance weights behind chosen rows; None without networks."""
        if self.network is None:
            return None
        k = dict(zip(self.network.labels, self.network.pareto_k.tolist(), strict=True))
        return torch.tensor([k[self._label(row)] for row in rows.tolist()], dtype=torch.float64)

    def sample(self, num_draws: int, seed: int = 0) -> Tensor:
        """Draw structures from the posterior: gates (num_draws, G)."""
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(num_draws, dtype=torch.float64, generator=generator)
        cumulative = self.probability.cumsum(0)
        rows = torch.searchsorted(cumulative / cumulative[-1], uniform).clamp_max(len(self.gates) - 1)
        return self.gates[rows]

    def to_idata(self, *args: Any, **kwargs: Any) -> Any:
        """An ArviZ InferenceData; see `evidentia.inference.diagnostics.to_idata`."""
        from evidentia.inference.diagnostics import to_idata

        return to_idata(self, self.model, *args, **kwargs)

    def export(self, structure: Any = None, **options: Any) -> Any:
        """The sub-model of one structure, the most probable when None.

        A subset of a `SubsetRegression` comes with its exact posterior
        (`evidentia.inference.structure.export_linear`). Anything else goes through
        `evidentia.inference.structure.export`, which takes the options; after "elbo", "iwae" or "importance"
        the exported guide starts from the trained one.

        Raises:
            ValueError: a SubsetRegression without its data.
        """
        from evidentia.inference.structure.export import export
        from evidentia.inference.structure.export_linear import export_regression

        chosen = self.map if structure is None else self.family.structure(structure)
        if isinstance(self.model, SubsetRegression):
            if self.problem is None:
                raise ValueError(
                    "export: this posterior holds no data; call export_regression(model, structure, x, y)"
                )
            return export_regression(self.model, chosen, self.problem.design, self.problem.y)
        if self.network is not None:
            options = {"guide": self.network} | options
        elif self.problem is not None:
            options = {"guide": self._exact_moments(chosen)} | options
        return export(self.model, chosen, **options)

    def _exact_moments(self, chosen: Structure) -> dict[str, tuple[Tensor, Tensor]]:
        """Exact mean and standard deviation of each open weight of a linear family with known noise."""
        problem: Any = self.problem
        open_columns = problem.columns(chosen.gates[None].double())[0] != 0
        if not bool(open_columns.any()):
            return {}
        part = ConjugateRegression(problem.prior, problem.design[:, open_columns], problem.y).posterior()
        columns = torch.zeros(2, len(open_columns), dtype=torch.float64)
        spread = part.scale_tril.square().sum(-1).sqrt()
        columns[:, open_columns] = torch.stack([part.loc, spread * (part.noise_scale or 1.0)])
        moments, start = {}, 0
        for name, shape in self.family.weight_shapes.items():
            stop = start + shape.numel()
            if bool(open_columns[start:stop].any()):
                loc, scale = columns[:, start:stop].reshape(2, *shape)
                moments[name] = (loc, scale)
            start = stop
        return moments

    def _top(self, top: int | None) -> Tensor:
        score = self.probability if self.draws is not None else self.log_evidence + self.log_prior
        if top is None or top >= len(score):
            return score.argsort(descending=True, stable=True)
        return score.topk(top).indices

    def _label(self, row: int) -> str:
        return self.family.label(self.gates[row])
