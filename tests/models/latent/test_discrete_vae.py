"""Binary latents: the order of the states, the sum over them against the Pyro program, the site table."""

import pyro
import pytest
import torch
from pyro import poutine

from evidentia.inference.evidence.importance import log_evidence
from evidentia.inference.objectives.discrete import DiscreteELBO
from evidentia.models.latent.discrete_vae import bit_states, discrete_vae_pair
from evidentia.models.latent.heads import BernoulliHead, CategoricalHead

HEADS = {"bernoulli": BernoulliHead, "categorical": lambda: CategoricalHead(3)}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def small(head="bernoulli", latent=3):
    model, guide = discrete_vae_pair(latent, 5, [6], HEADS[head]())
    torch.nn.init.normal_(model.prior_logits)
    return model, guide, model(size=4).detach()


def test_states_count_in_binary():
    states = bit_states(4)
    assert states.shape == (16, 4)
    assert ((states @ torch.tensor([8.0, 4.0, 2.0, 1.0])) == torch.arange(16)).all()
    with pytest.raises(ValueError, match="1 to 20 bits, got 21"):
        bit_states(21)


@pytest.mark.parametrize("head", HEADS)
def test_the_joint_of_every_state_is_that_of_the_program(head):
    model, _, x = small(head)
    joint = model.log_joint(x)
    assert joint.shape == (8, 4)
    for state, row in zip(bit_states(3), joint, strict=True):
        trace = poutine.trace(poutine.condition(model, {"z": state.expand(4, 3)})).get_trace(x)
        trace.compute_log_prob()
        torch.testing.assert_close(row, trace.nodes["z"]["log_prob"] + trace.nodes["obs"]["log_prob"])


def test_the_evidence_by_enumeration_sums_to_one_over_all_data():
    model, _, _ = small()
    every = bit_states(5)
    torch.testing.assert_close(model.log_joint(every).logsumexp((0, 1)).exp(), torch.tensor(1.0))


@pytest.mark.statistical
def test_importance_sampling_finds_the_enumerated_evidence():
    model, guide, x = small()
    exact = float(model.log_joint(x).logsumexp(0).sum().detach())
    found = log_evidence((model, guide), x, num_particles=20_000, seed=0)
    assert abs(found.value - exact) < 4.5 * found.standard_error
    assert found.standard_error < 0.02


@pytest.mark.statistical
def test_the_bound_is_the_enumerated_one():
    model, guide, x = small()
    logits = guide.logits(x)
    states = bit_states(3)
    log_q = states @ logits.T - torch.nn.functional.softplus(logits).sum(-1)
    exact = (log_q.exp() * (model.log_joint(x) - log_q)).sum(0)
    objective = DiscreteELBO("rloo", num_particles=2)
    with torch.no_grad():
        rows = x.repeat(2500, 1)
        estimate = -objective.loss(model, guide, rows) / len(rows)
        draws = torch.distributions.Categorical(logits=log_q.T).sample((5000,))
        f = (model.log_joint(x) - log_q).T
        error = f.gather(1, draws.T).std(1).square().mean().sqrt() / 20_000**0.5
    assert abs(estimate - float(exact.mean().detach())) < 4.5 * float(error)


def test_an_encoder_scales_its_input_and_shows_its_size():
    _, guide, _ = small("categorical")
    x = torch.full((2, 5), 2.0)
    torch.testing.assert_close(guide.logits(x), guide.encoder(torch.ones(2, 5)))
    assert "latent=3" in repr(guide)
    with pyro.plate("particles", 7, dim=-2):
        assert guide(x).shape == (7, 2, 3)
