"""Peaks on paths made by hand, and forecasts of arrivals that hold still, recede or come to nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from shockwatch.shock.adam_path import AdamPath
from shockwatch.shock.lookahead import LookaheadForecaster, first_peak, shows_enough

STEPS = np.arange(0.0, 151.0, 5.0)


def path(
    arrival: float, *, rise: float = 1.0, drop: float = 0.8, noise: float = 0.0, steps: np.ndarray = STEPS
) -> AdamPath:
    """A peak of the log norm at ``arrival``, of this height; the loss falls by ``drop`` around it."""
    norms = np.exp(rise / np.cosh((steps - arrival) / 20.0))
    losses = 1.0 - drop * 0.5 * (1.0 + np.tanh((steps - arrival) / 15.0))
    return AdamPath(steps, losses, norms, len(steps) - 1, noise, 0.0, 10.0)


def flat() -> AdamPath:
    return AdamPath(STEPS, np.exp(-STEPS / 50.0), np.exp(-STEPS / 50.0), 30, 0.0, 0.0, 10.0)


def test_a_peak_is_found_between_the_points():
    for arrival in (40.0, 41.3, 43.9):
        peak = first_peak(path(arrival))
        assert peak is not None
        assert peak.steps == pytest.approx(arrival, abs=0.1)
        assert peak.spacing == 5.0
        assert peak.rise == pytest.approx(1.0 - 1.0 / math.cosh(arrival / 20.0), abs=0.01)
        assert peak.fall == pytest.approx(1.0, abs=0.05)
        assert peak.drop == pytest.approx(0.8, abs=0.02)
        assert peak.evidence == 1.0


def test_what_does_not_stand_out_is_none():
    assert first_peak(flat()) is None
    assert first_peak(path(60.0, rise=0.1)) is None, "hardly a rise"
    assert first_peak(path(60.0, drop=0.05)) is None, "hardly a loss"
    assert first_peak(path(200.0)) is None, "beyond the path"
    assert first_peak(path(149.0)) is None, "not passed within the path"


def test_the_first_of_two_counts_and_a_ripple_before_it_does_not():
    both = path(110.0)
    first = path(35.0, rise=0.6)
    norms = both.norms * first.norms
    assert first_peak(AdamPath(STEPS, first.losses, norms, 30, 0.0, 0.0, 10.0)).steps == pytest.approx(
        35, abs=3
    )
    ripple = np.where(STEPS == 10.0, 1.1, 1.0)
    seen = first_peak(AdamPath(STEPS, both.losses, both.norms * ripple, 30, 0.0, 0.0, 10.0))
    assert seen.steps == pytest.approx(110, abs=1)


def test_a_path_has_shown_enough_once_the_peak_is_passed():
    whole = path(60.0)
    ends = [
        shows_enough(AdamPath(STEPS[:k], whole.losses[:k], whole.norms[:k], k, 0.0, 0.0, 10.0))
        for k in range(3, 31)
    ]
    assert ends == sorted(ends)
    assert 75.0 <= STEPS[3 + ends.index(True) - 1] <= 110.0
    assert not shows_enough(flat())
    assert shows_enough(replace(flat(), foreign=0.5)), "nor does one that is not the run's"


def test_an_arrival_that_counts_down_is_forecast_with_a_narrow_interval():
    forecaster = LookaheadForecaster()
    first = forecaster.update(path(100.0), 0)
    assert first.remaining == pytest.approx(100.0, abs=0.5)
    assert first.error > 5.0
    assert first.evidence <= 0.5
    assert first.reason
    for step in (20, 40, 60):
        seen = forecaster.update(path(100.0 - step), step)
        assert seen.remaining == pytest.approx(100.0 - step, abs=0.5)
    assert seen.error < 2.0
    assert seen.evidence > 0.8
    assert seen.reason == ""
    noisy = LookaheadForecaster()
    for step in (0, 20, 40, 60):
        wide = noisy.update(path(100.0 - step, noise=0.05), step)
    assert wide.error > 1.5 * seen.error


def test_an_arrival_that_recedes_or_comes_due_for_ever_is_none():
    forecaster = LookaheadForecaster()
    receding = [forecaster.update(path(70.0), step) for step in (0, 20, 40, 60)]
    assert all(math.isnan(seen.remaining) for seen in receding[1:])
    assert "recedes" in receding[-1].reason
    forecaster = LookaheadForecaster()
    soon = [forecaster.update(path(15.0), step) for step in (0, 20, 40, 60)]
    assert all(math.isnan(seen.remaining) for seen in soon), "within the memory of Adam, again and again"
    assert all(seen.reason for seen in soon)


def test_one_look_at_a_small_peak_is_not_enough():
    forecaster = LookaheadForecaster()
    assert math.isnan(forecaster.update(path(60.0, drop=0.35), 0).remaining)
    second = forecaster.update(path(40.0, drop=0.35), 20)
    assert second.remaining == pytest.approx(40.0, abs=0.5)


def test_nothing_ahead_forgets_and_a_missing_path_does_not():
    forecaster = LookaheadForecaster()
    forecaster.update(path(100.0), 0)
    assert math.isnan(forecaster.update(None, 20).remaining)
    assert forecaster.update(path(60.0), 40).evidence > 0.4, "the look at step 0 still counts"
    assert math.isnan(forecaster.update(flat(), 60).remaining)
    assert forecaster.update(path(50.0), 80).reason == "a new peak, seen once"


def test_a_checkpoint_keeps_the_sightings():
    forecaster, resumed = LookaheadForecaster(), LookaheadForecaster()
    for step in (0, 20):
        forecaster.update(path(100.0 - step), step)
    resumed.load_state_dict(forecaster.state_dict())
    assert resumed.update(path(60.0), 40) == forecaster.update(path(60.0), 40)
    with pytest.raises(ValueError, match="sightings"):
        resumed.load_state_dict({})


def test_what_a_batch_has_of_its_own_is_no_forecast_for_the_run():
    seen = {}
    for foreign in (0.05, 0.12, 0.5):
        forecaster = LookaheadForecaster()
        for step in (0, 20, 40):
            seen[foreign] = forecaster.update(replace(path(100.0 - step), foreign=foreign), step)
    assert seen[0.05].evidence > seen[0.12].evidence > 0.0
    assert math.isnan(seen[0.5].remaining)
    assert "its own" in seen[0.5].reason
