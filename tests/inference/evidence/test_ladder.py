"""Ladders of inverse temperatures."""

import pytest
import torch

from evidentia.inference.evidence.ladder import (
    check_ladder,
    next_beta,
    power_schedule,
    sigmoidal_schedule,
)
from evidentia.inference.evidence.resampling import effective_fraction


@pytest.mark.parametrize("scale", [30.0, 1e3, 1e9])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.9])
def test_the_next_temperature_keeps_the_wanted_effective_size(scale, target):
    g = torch.Generator().manual_seed(0)
    value = -scale * torch.rand(4, 256, generator=g, dtype=torch.float64)
    value[:, :20] = -torch.inf
    value[0, 20] = torch.nan
    beta = next_beta(value, 0.0, target)
    value[0, 20] = -torch.inf
    assert float(effective_fraction(beta * value).mean()) == pytest.approx(target, abs=1e-3)


def test_the_step_starts_at_the_present_temperature():
    value = -100 * torch.rand(256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = next_beta(value, 0.0)
    assert next_beta(value, 0.25) == pytest.approx(0.25 + first, abs=1e-4)


def test_a_ladder_always_climbs():
    value = torch.tensor([0.0, 0.0, -1e200, -1e250], dtype=torch.float64)
    beta = next_beta(value, 0.5, 0.9)
    assert 0.5 < beta < 1


def test_impossible_data_are_refused():
    with pytest.raises(ValueError, match="at least one finite value"):
        next_beta(torch.tensor([[0.0, -1.0], [-torch.inf, torch.nan]]), 0.0)


def test_schedules_run_from_exactly_zero_to_exactly_one_and_are_finest_where_they_should():
    for schedule in (sigmoidal_schedule(50), power_schedule(50)):
        assert bool((check_ladder(schedule) == schedule).all())
        assert len(schedule) == 51
        assert int(schedule.diff().argmin()) in (0, 49)
    sigmoidal = sigmoidal_schedule(50)
    assert bool((sigmoidal + sigmoidal.flip(0) - 1).abs().max() < 1e-12)
    assert float(power_schedule(32)[1]) == pytest.approx(32.0**-5)


@pytest.mark.parametrize(
    "bad", [[0.0], [0.1, 1.0], [0.0, 0.9], [0.0, 0.5, 0.5, 1.0], [0.0, torch.nan, 1.0], [[0.0, 1.0]]]
)
def test_bad_ladders_are_refused(bad):
    with pytest.raises(ValueError, match="betas"):
        check_ladder(torch.tensor(bad))


def test_bad_schedules_are_refused():
    for make in (sigmoidal_schedule, power_schedule):
        with pytest.raises(ValueError, match="num_steps"):
            make(0)
        with pytest.raises(ValueError, match="> 0"):
            make(3, -1.0)
