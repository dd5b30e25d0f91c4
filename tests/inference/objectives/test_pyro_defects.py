"""Oracle 15: five defects of Pyro 1.9.2, its value beside ours and the exact one.

The tests also say when Pyro has repaired one: then the assertion about Pyro's value fails, and it can go.
"""

import oracles
import pyro
import pyro.distributions as dist
import pyro_pairs as pairs
import pytest
import torch
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceTailAdaptive_ELBO, TraceTMC_ELBO

from evidentia.inference.objectives.particle import ParticleELBO

N, B, K = 20, 5, 8


def gaussian_rows(batch):
    """z_i ~ N(0, 1), x_i ~ N(z_i, .7), guide N(.3 x_i, 1); the data set whose evidence is that of 1.2."""
    x = dist.Normal(0.0, 1.0).icdf((torch.arange(N) + 0.5) / N) * (1.49**0.5)
    exact = float(dist.Normal(0.0, 1.49**0.5).log_prob(x).sum())

    def model():
        with pyro.plate("data", N, subsample_size=batch) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x[rows])

    def guide():
        with pyro.plate("data", N, subsample_size=batch) as rows:
            pyro.sample("z", dist.Normal(0.3 * x[rows], 1.0))

    return model, guide, exact


def mean(objective, model, guide, count=80):
    values = torch.tensor([-objective.loss(model, guide) for _ in range(count)], dtype=torch.float64)
    return float(values.mean()), float(values.std()) / count**0.5


@pytest.fixture(autouse=True)
def no_validation():
    pyro.enable_validation(False)


def test_a_subsampled_bounds():
    """A: the scale N/B multiplies log w before the log-mean-exp, so the "bound" lies above the evidence."""
    whole, part = gaussian_rows(N), gaussian_rows(B)
    evidence = whole[2]
    options = {"num_particles": K, "max_plate_nesting": 1}
    full, full_error = mean(ParticleELBO("iwae", "dreg", **options), *whole[:2])
    ours, ours_error = mean(ParticleELBO("iwae", "dreg", **options), *part[:2], count=250)
    renyi, _ = mean(RenyiELBO(alpha=0, vectorize_particles=True, **options), *part[:2])
    pyro_full, _ = mean(RenyiELBO(alpha=0, vectorize_particles=True, **options), *whole[:2])
    sampled = pyro.infer.config_enumerate(part[1], default="parallel", num_samples=K, expand=False)
    with torch.no_grad():
        tmc = -float(
            torch.stack(
                [TraceTMC_ELBO(max_plate_nesting=1).differentiable_loss(part[0], sampled) for _ in range(40)]
            ).mean()
        )
    print(
        f"evidence {evidence:.2f}; IWAE-8 full {full:.2f}; minibatch: ours {ours:.2f}, "
        f"Pyro Rényi {renyi:.2f}, Pyro TMC {tmc:.2f}"
    )
    assert abs(ours - full) < 4.5 * (ours_error**2 + full_error**2) ** 0.5
    assert ours < evidence + 4.5 * ours_error
    assert pyro_full == pytest.approx(full, abs=0.2)
    assert renyi > evidence + 4
    assert tmc > evidence + 4
    measured = oracles.PYRO_SUBSAMPLED
    assert renyi - evidence == pytest.approx(measured["renyi"] - measured["evidence"], abs=2.0)


def test_b_renyi_without_reparameterisation():
    """B: at alpha = 0 the guide's gradient is zero; at .5 it is that of infinitely many particles."""
    for alpha, name in ((0.0, "iwae"), (0.5, "renyi")):
        size = 20_000
        model, silent, parameters = pairs.discrete_toy(size)

        def guide(silent=silent):
            pyro.param("any", torch.tensor(0.0))  # RenyiELBO takes no gradient unless it sees a parameter
            silent()

        options = {"num_particles": 2, "max_plate_nesting": 1}
        more = {} if alpha == 0 else {"alpha": alpha}
        ours, _ = pairs.draws(ParticleELBO(name, "total", **more, **options), (model, guide, parameters))
        theirs, _ = pairs.draws(
            RenyiELBO(alpha=alpha, vectorize_particles=True, **options), (model, guide, parameters)
        )
        exact = torch.tensor(
            oracles.PARTICLE_DISCRETE["iwae", 2, None][1][3:] if alpha == 0 else (-0.121, 0.224, -0.103),
            dtype=torch.float64,
        )
        print(
            f"alpha {alpha}: exact {exact.tolist()}, ours {ours[:, 3:].mean(0).tolist()}, "
            f"Pyro {theirs[:, 3:].mean(0).tolist()}"
        )
        if alpha == 0:
            assert pairs.z_scores(ours[:, 3:], exact).abs().max() < 4.5
            assert theirs[:, 3:].abs().max() == 0
        else:  # the exact values have three digits
            assert (ours[:, 3:].mean(0) - exact).abs().max() < 4.5 * float(
                ours[:, 3:].std()
            ) / size**0.5 + 5e-4
            torch.testing.assert_close(
                theirs[:, 3:].mean(0),
                torch.tensor([-0.043, 0.071, -0.027], dtype=torch.float64),
                atol=0.02,
                rtol=0,
            )


def test_c_wake_sleep_weighs_every_datum():
    """C: Pyro sums log-weights over the plate first: one joint weight for the whole batch."""
    model, guide, evidence = gaussian_rows(N)
    ours, error = mean(ParticleELBO("rws", "total", num_particles=64, max_plate_nesting=1), model, guide, 60)
    pyro.param("unused", torch.tensor(0.0))

    def learned():
        guide()
        pyro.param("unused")

    sleepless = ReweightedWakeSleep(
        num_particles=64, vectorize_particles=True, max_plate_nesting=1, insomnia=1.0
    )
    theirs = torch.tensor([-sleepless.loss(model, learned)[0] for _ in range(60)])
    print(f"evidence {evidence:.2f}, ours {ours:.2f}, Pyro {float(theirs.mean()):.2f}")
    assert evidence - 0.25 < ours < evidence + 4.5 * error
    assert float(theirs.mean()) < evidence - 1.5


def test_d_tail_adaptive_ranks():
    """D: argsort where a rank is meant. The gradient of factors log w = (3, 1, 2) shows the weights."""
    log_w = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)

    def read(objective):
        marks = torch.zeros(3, dtype=torch.float64, requires_grad=True)

        def model():
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.factor("w", log_w + marks + 0 * z.sum(-1))

        def guide():
            pyro.param("any", torch.tensor(0.0))
            pyro.sample("z", dist.Normal(torch.zeros(1, requires_grad=True), 1.0).to_event(1))

        objective.loss_and_grads(model, guide)
        return -marks.grad

    ours = read(ParticleELBO("tail_adaptive", "total", num_particles=3, max_plate_nesting=0))
    theirs = read(TraceTailAdaptive_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=0))
    theirs = theirs / theirs.sum()  # Pyro divides once more by the number of particles
    print("ours", ours.tolist(), "Pyro", theirs.tolist())
    exact = torch.tensor(oracles.TAIL_ADAPTIVE_WEIGHTS, dtype=torch.float64)
    torch.testing.assert_close(ours, exact, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        theirs, torch.tensor(oracles.PYRO_TAIL_ADAPTIVE_WEIGHTS, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_e_the_landing_is_left():
    """E: with q = p Pyro's gradients are noise of sd 1/2 and √2; sticking the landing gives zero."""
    size = 20_000
    loc, log_scale = pairs.replicate(1.0, 0.6931471805599453, size=size)
    target = torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)

    def model():
        with pyro.plate("data", size):
            pyro.sample("z", dist.Normal(*target))

    def guide():
        pyro.param("any", torch.tensor(0.0))
        with pyro.plate("data", size):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))

    pair = (model, guide, (loc, log_scale))
    ours, _ = pairs.draws(ParticleELBO("elbo", "stl"), pair)
    theirs, _ = pairs.draws(Trace_ELBO(), pair)
    print("ours sd", ours.std(0).tolist(), "Pyro sd", theirs.std(0).tolist())
    assert ours.abs().max() < 1e-12
    expected = torch.tensor(oracles.PYRO_TOTAL_SD, dtype=torch.float64)
    torch.testing.assert_close(theirs.std(0), expected, rtol=0.03, atol=0)
