"""The edge of stability: its arrival against known trends."""

import math

import pytest

from shockwatch.phase.stability import Stability


def arrivals(values, every=10):
    stability = Stability()
    return [stability.update(every * i, value) for i, value in enumerate(values)]


def test_a_rise_like_the_square_of_time_arrives_when_it_says():
    found = arrivals([(0.3 + 0.06 * i) ** 2 for i in range(11)])
    assert all(math.isnan(steps) and math.isnan(error) for steps, error in found[:7])
    for i in (7, 9, 10):
        steps, error = found[i]
        assert steps == pytest.approx((0.7 - 0.06 * i) / 0.06 * 10)
        assert 0.0 < error < steps
    assert arrivals([1.2]) == [(0.0, 0.0)]


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_slower_and_faster_growth_lie_at_the_ends_of_the_interval(kind):
    values, arrival = [0.8 - 0.06 * (9 - i) for i in range(10)], (1.0 - 0.8) / 0.06 * 10
    if kind == "exponential":
        values, arrival = [0.8 * math.exp(-0.1 * (9 - i)) for i in range(10)], -math.log(0.8) / 0.1 * 10
    steps, error = arrivals(values)[-1]
    assert abs(arrival - steps) <= error + 1e-9
    assert (arrival > steps) == (kind == "linear")
    if kind == "linear":
        assert steps + error == pytest.approx(arrival)


@pytest.mark.parametrize(
    "values",
    [
        [0.7] * 12,
        [0.9 - 0.02 * i for i in range(12)],
        [0.05 + 0.01 * i for i in range(12)],
        [0.0] * 12,
        [0.5 + 0.2 * (-1) ** i for i in range(12)],
        [0.30 + 0.001 * i for i in range(12)],
    ],
    ids=["level", "falling", "far", "nothing", "noise", "farther than watched"],
)
def test_no_arrival_is_foreseen(values):
    assert all(math.isnan(a) for pair in arrivals(values) for a in pair)


def test_a_missing_value_leaves_the_trend_and_a_step_back_forgets_it():
    stability = Stability()
    for i in range(9):
        stability.update(10 * i, 0.5 + 0.04 * i)
    assert math.isnan(stability.update(85, math.nan)[0])
    assert math.isfinite(stability.update(90, 0.86)[0])
    assert math.isnan(stability.update(20, 0.9)[0])
