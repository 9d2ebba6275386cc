"""p-values against what a p-value must do, and tau against scipy."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from shockwatch.phase.surrogates import kendall, rise, rolling

LENGTH = 64


def process(rng, memory) -> np.ndarray:
    """``x_n = m_n x_(n-1) + e_n`` after a warm-up at its first memory."""
    memory = np.broadcast_to(memory, LENGTH)
    x, out = 0.0, []
    for m in np.concatenate([np.full(60, memory[0]), memory]):
        x = m * x + rng.standard_normal()
        out.append(x)
    return np.array(out[60:])


def test_tau_is_that_of_scipy():
    rows = np.random.default_rng(0).standard_normal((5, 20))
    expected = [kendalltau(range(20), row).statistic for row in rows]
    np.testing.assert_allclose(kendall(rows), expected, atol=1e-12)


def test_rolling_statistics_are_those_of_each_window():
    row = np.random.default_rng(1).standard_normal(12)
    variance, correlation = rolling(row)
    for i in range(7):
        part = row[i : i + 6]
        assert variance[i] == pytest.approx(np.mean(part**2))
        assert correlation[i] == pytest.approx((part[:-1] @ part[1:]) / (part @ part))


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_under_the_null_a_tenth_is_a_tenth(memory):
    rng = np.random.default_rng(2)
    p = np.array([rise(range(LENGTH), process(rng, memory)) for _ in range(300)])
    # 300 trials know a tenth to 0.017; a factor of two is allowed, plus two of these. Textbook p-values of tau
    # would call half of these series significant.
    for level in (0.1, 0.3):
        assert np.all((p < level).mean(0) < 2 * level + 0.035)
        assert np.all((p < level).mean(0) > level / 2 - 0.035)


def test_slowing_down_is_seen_and_scale_does_not_matter():
    rng, times = np.random.default_rng(3), range(LENGTH)
    series = [process(rng, np.linspace(0.0, 0.97, LENGTH)) for _ in range(60)]
    slowing = np.array([rise(times, s)[1] for s in series])
    assert np.mean(slowing < 0.1) > 0.4
    assert rise(times, 1e-9 * series[0] + 3.0) == pytest.approx(rise(times, series[0]), abs=0.01)


def test_what_says_nothing():
    assert all(math.isnan(p) for p in rise(range(15), np.arange(15.0)))
    assert rise(range(16), np.arange(16.0)) == (1.0, 1.0)
