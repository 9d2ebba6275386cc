"""The edge of stability: its arrival against known trends."""

import math

import pytest

from shockwatch.phase.stability import Stability


def arrivals(values, every=10):
    stability = Stability()
    return [stability.update(every * i, value) for i, value in enumerate(values)]


def test_a_straight_rise_arrives_when_it_says():
    values = [0.3 + 0.05 * i for i in range(14)]
    found = arrivals(values)
    assert all(math.isnan(a) for a in found[:3])
    for i in (9, 11, 13):
        assert found[i] == pytest.approx((1.0 - values[i]) / 0.05 * 10)
    assert arrivals([1.2]) == [0.0]


@pytest.mark.parametrize(
    "values",
    [
        [0.7] * 12,
        [0.9 - 0.02 * i for i in range(12)],
        [0.05 + 0.01 * i for i in range(12)],
        [0.5 + 0.2 * (-1) ** i for i in range(12)],
        [0.30 + 0.001 * i for i in range(12)],
    ],
    ids=["level", "falling", "far", "noise", "farther than watched"],
)
def test_no_arrival_is_foreseen(values):
    assert all(math.isnan(a) for a in arrivals(values))


def test_a_missing_value_leaves_the_trend_and_a_step_back_forgets_it():
    stability = Stability()
    for i in range(9):
        stability.update(10 * i, 0.5 + 0.04 * i)
    assert math.isnan(stability.update(85, math.nan))
    assert math.isfinite(stability.update(90, 0.86))
    assert math.isnan(stability.update(20, 0.9))
