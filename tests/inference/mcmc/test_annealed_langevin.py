"""Annealed Langevin with exact scores of a mixture: weights, spreads, step sizes."""

import math

import pytest
import torch

from evidentia.inference.mcmc.annealed_langevin import (
    annealed_langevin,
    denoise,
    geometric_sigmas,
    variance_match,
)


def mixture_score(x, variance, centre, weights=(0.8, 0.2)):
    """Modes at ±(centre, centre), the first of them positive."""
    modes = torch.tensor([[centre, centre], [-centre, -centre]], dtype=x.dtype)
    away = modes[:, None] - x
    part = torch.tensor(weights, dtype=x.dtype).log()[:, None] - 0.5 * away.square().sum(-1) / variance
    return (part.softmax(0)[..., None] * away).sum(0) / variance


def uniform(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return 16 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 8, generator


def weight(x):
    return float((x.sum(-1) > 0).double().mean())


@pytest.mark.statistical
def test_the_ladder_finds_the_weights_that_plain_langevin_misses():
    def score(x, sigma):
        return mixture_score(x, sigma**2, 5.0)

    start, generator = uniform(4000, 0)
    one = torch.ones(1, dtype=torch.float64)
    plain = annealed_langevin(
        score, start, one, steps=300, step_size=0.05, denoised=False, generator=generator
    )
    assert weight(plain) == pytest.approx(0.5, abs=0.03)
    found = {}
    for levels in (3, 10):
        sigmas = geometric_sigmas(20.0, 1.0, levels)
        found[levels] = weight(
            annealed_langevin(
                score, start, sigmas, steps=100, step_size=0.05, denoised=False, generator=generator
            )
        )
    assert found[10] == pytest.approx(0.8, abs=0.03)
    assert found[3] < found[10] - 0.02


@pytest.mark.statistical
def test_the_end_is_the_smoothed_law_or_its_denoised_mean():
    centre, spread, last = 1.5, 0.25, 0.25

    def score(x, sigma):
        return mixture_score(x, spread**2 + sigma**2, centre)

    start, generator = uniform(8_000, 1)
    sigmas = geometric_sigmas(8.0, last, 10)
    noisy = annealed_langevin(
        score, start, sigmas, steps=100, step_size=0.05 * last**2, denoised=False, generator=generator
    )
    smoothed = math.sqrt(spread**2 + last**2)

    def spreads(x):
        side = x.sum(-1) > 0
        return torch.stack([x[side].std(0), x[~side].std(0)])

    assert (spreads(noisy) / smoothed - 1).abs().max() < 0.03
    # Tweedie shrinks a component by s^2 / (s^2 + sigma^2).
    clean = denoise(noisy, score, last)
    assert (spreads(clean) / (spread**2 / smoothed) - 1).abs().max() < 0.03


def test_denoising_is_the_last_step():
    def score(x, sigma):
        return -x / (1 + sigma**2)

    start = torch.ones(3, 2, dtype=torch.float64)
    sigmas = geometric_sigmas(2.0, 0.5, 4)
    ends = [
        annealed_langevin(
            score, start, sigmas, steps=5, denoised=denoised, generator=torch.Generator().manual_seed(0)
        )
        for denoised in (False, True)
    ]
    torch.testing.assert_close(ends[1], denoise(ends[0], score, 0.5))
    torch.testing.assert_close(ends[1], ends[0] * (1 - 0.25 / 1.25))


@pytest.mark.statistical
def test_steps_follow_the_levels():
    """With no score a level of T steps adds the variance 2 h_i T."""
    sigmas = torch.tensor([3.0, 1.0], dtype=torch.float64)
    start = torch.zeros(100_000, 1, dtype=torch.float64)
    end = annealed_langevin(
        lambda x, sigma: torch.zeros_like(x),
        start,
        sigmas,
        steps=4,
        step_size=0.01,
        generator=torch.Generator().manual_seed(0),
    )
    expected = 2 * 0.01 * 4 * (9 + 1)
    assert abs(end.var().item() / expected - 1) < 4.5 * math.sqrt(2 / 100_000)


def test_the_variance_match_rule():
    # Published in Song and Ermon 2020: 6.2e-6 in their units for 232 levels from 50 to 0.01 with 5 steps.
    sigmas = geometric_sigmas(50.0, 0.01, 232)
    assert variance_match(sigmas, 5) == pytest.approx(6.2e-6, rel=0.02)
    digits = geometric_sigmas(9.63, 0.1, 10)
    found = [round(variance_match(digits, steps) / 0.01, 3) for steps in (5, 10, 20, 50, 100)]
    assert found == pytest.approx([0.30, 0.19, 0.12, 0.057, 0.032], abs=0.005)
    assert found[3:] == [0.057, 0.032]


def test_bad_input_is_refused():
    start = torch.zeros(3, 1)
    sigmas = geometric_sigmas(1.0, 0.1, 3)
    for settings, match in (
        ({"sigmas": sigmas.flip(0)}, "sigmas"),
        ({"steps": 0}, "steps"),
        ({"step_size": -1.0}, "step_size"),
        ({"score": lambda x, sigma: x[0]}, "expected shape"),
        ({"score": lambda x, sigma: x / 0}, r"sigma 1, step 0"),
    ):
        given = {"score": lambda x, sigma: -x, "position": start, "sigmas": sigmas} | settings
        with pytest.raises(ValueError, match=match):
            annealed_langevin(**given)
    with pytest.raises(ValueError, match="levels"):
        geometric_sigmas(0.1, 1.0)
