"""The metric `enumerated_bound`: evidence and bound of an autoencoder with few binary latents, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evidentia.studies.harness.declare.registry import metrics

if TYPE_CHECKING:
    from evidentia.studies.harness.engine.outcome import Outcome, Problem


@metrics.register("enumerated_bound")
def enumerated_bound(outcome: Outcome, problem: Problem) -> dict[str, float]:
    """The evidence, the bound and their distance on held-out rows by a sum over all states; else empty.

    Columns, nats per row: ``exact_nats`` (minus the log evidence) with ``exact_nats_se`` (spread over the
    rows), ``bound_nats`` (minus the ELBO) with ``bound_nats_se``, and ``divergence`` (KL of q from the
    posterior).
    """
    import torch

    from evidentia.models.latent.discrete_vae import DiscreteVAE, bit_states

    fit = outcome.extra.get("fit")
    if fit is None or not isinstance(fit.pair[0], DiscreteVAE):
        return {}
    model, guide = fit.pair
    with fit.scope(), torch.no_grad():
        rows = problem.data.test_x.to(model.prior_logits.dtype)
        states = bit_states(model.latent)
        found = []
        for part in rows.split(100):
            joint, logits = model.log_joint(part), guide.logits(part)
            log_q = states @ logits.T - torch.nn.functional.softplus(logits).sum(-1)
            found.append(torch.stack([joint.logsumexp(0), (log_q.exp() * (joint - log_q)).sum(0)]))
    evidence, bound = -torch.cat(found, 1).double()
    root = len(rows) ** 0.5
    return {
        "exact_nats": float(evidence.mean()),
        "exact_nats_se": float(evidence.std()) / root,
        "bound_nats": float(bound.mean()),
        "bound_nats_se": float(bound.std()) / root,
        "divergence": float((bound - evidence).mean()),
    }
