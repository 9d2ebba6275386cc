"""Early-warning statistics against closed forms and laws."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shockwatch.phase.early_warning import autocorrelation, detrended, trend, variance

STATISTICS = (variance, autocorrelation, trend)
series = st.lists(st.floats(-100, 100), min_size=3, max_size=40)


def ar1(coefficient: float, length: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(length)
    out = np.zeros(length)
    for i in range(1, length):
        out[i] = coefficient * out[i - 1] + noise[i]
    return out


@pytest.mark.parametrize("coefficient", [-0.5, 0.0, 0.5, 0.9])
def test_an_autoregressive_process_shows_its_coefficient_and_variance(coefficient):
    # Standard error of the estimate is sqrt((1 - r^2) / n) = 0.007 at n = 20,000; four of them.
    values = ar1(coefficient, 20_000, 3)
    assert autocorrelation(range(20_000), values) == pytest.approx(coefficient, abs=0.03)
    assert variance(range(20_000), values) == pytest.approx(1 / (1 - coefficient**2), rel=0.15)


def test_the_estimates_are_those_of_an_explicit_regression():
    rng = np.random.default_rng(0)
    times, values = np.sort(rng.uniform(0, 10, 30)), rng.standard_normal(30)
    expected = values - np.polyval(np.polyfit(times, values, 1), times)
    np.testing.assert_allclose(detrended(times, values), expected, atol=1e-12)
    assert variance(times, values) == pytest.approx(np.sum(expected**2) / 28)


@pytest.mark.parametrize("level", [0.0, 1.0, -1e6, 1e-9])
def test_a_constant_series_has_nothing_to_say(level):
    for statistic in STATISTICS:
        assert statistic(range(10), [level] * 10) == 0.0


@pytest.mark.parametrize("slope", [2.0, -0.1])
def test_a_line_is_all_trend(slope):
    times = [0, 50, 100, 130, 150, 300]
    values = [7.0 + slope * time for time in times]
    assert variance(times, values) == 0.0
    assert autocorrelation(times, values) == 0.0
    assert trend(times, values) == pytest.approx(math.copysign(1.0, slope))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_values_give_nan(count):
    for statistic in STATISTICS:
        assert math.isnan(statistic(range(count), [1.0, 2.0][:count]))


@given(series)
def test_finite_and_within_range_from_three_values_on(values):
    times = range(len(values))
    assert 0.0 <= variance(times, values) < math.inf
    # |sum e_i e_(i+1)| <= sum e_i^2 by Cauchy-Schwarz.
    assert abs(autocorrelation(times, values)) <= 1.0 + 1e-12
    assert abs(trend(times, values)) <= 1.0 + 1e-12


@given(series, st.floats(0.01, 100), st.floats(-100, 100), st.floats(-10, 10))
def test_scale_shift_and_added_trend(values, scale, shift, slope):
    times = np.arange(len(values))
    assume(variance(times, values) > 1e-6)  # below it the added line's rounding is as large as the residual
    moved = scale * np.array(values) + shift + slope * times
    assert variance(times, moved) == pytest.approx(scale**2 * variance(times, values), rel=1e-3)
    assert autocorrelation(times, moved) == pytest.approx(autocorrelation(times, values), abs=1e-3)


@given(st.lists(st.integers(-50, 50), min_size=3, max_size=30))
def test_trend_depends_on_ranks_only_and_flips_in_the_mirror(values):
    times = range(len(values))
    assert trend(times, [math.exp(value / 50) for value in values]) == pytest.approx(trend(times, values))
    assert trend(times, [-value for value in values]) == pytest.approx(-trend(times, values))
