"""How surprising a rising early-warning statistic is: Kendall's tau against AR(1) surrogates (Dakos et al. 2008).

Statistics over windows that overlap rise and fall slowly by themselves, so tau has no textbook distribution.
Its distribution for a stationary AR(1) series of the same length and memory depends on these two alone (a line is
taken off, and neither scale nor shift matters), hence it is simulated once for each and remembered.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from shockwatch.phase.change_point import unbiased
from shockwatch.phase.early_warning import autocorrelation, detrended

SURROGATES = 500
FEWEST = 16
_GRID = 0.05


def rolling(residuals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance and lag-1 autocorrelation over windows of half the length, along the last axis."""
    half = residuals.shape[-1] // 2
    windows = np.lib.stride_tricks.sliding_window_view(residuals, half, axis=-1)
    power = (windows**2).sum(-1)
    lagged = (windows[..., :-1] * windows[..., 1:]).sum(-1)
    return power / half, lagged / np.where(power > 0.0, power, 1.0)


def kendall(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kendall's tau of every series (last axis) with time, ties counted as half."""
    length = series.shape[-1]
    first, second = np.triu_indices(length, 1)
    tau: NDArray[np.float64] = np.sign(series[..., second] - series[..., first]).mean(-1)
    return tau


@functools.lru_cache(maxsize=256)
def _null(memory: float, length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted taus of variance and autocorrelation of AR(1) surrogates."""
    noise = np.random.default_rng(0).standard_normal((SURROGATES, length + 100))
    series = lfilter([1.0], [1.0, -memory], noise, axis=-1)[:, 100:]
    time = np.arange(length) - (length - 1) / 2
    series = series - series.mean(-1, keepdims=True)
    series = series - np.outer(series @ time / (time @ time), time)
    variance, correlation = rolling(series)
    return np.sort(kendall(variance)), np.sort(kendall(correlation))


def rise(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """p-values that variance and lag-1 autocorrelation rise along the window; NaN below 16 values.

    The share of AR(1) surrogates, with the window's own memory freed of its bias, whose statistic rises
    at least as steadily (Kendall's tau). A series without fluctuations gives 1.
    """
    if len(values) < FEWEST:
        return math.nan, math.nan
    residuals = detrended(times, values)
    largest = float(np.abs(residuals).max())
    if largest == 0.0:
        return 1.0, 1.0
    memory = max(0.0, unbiased(autocorrelation(times, values), len(values)))
    null = _null(round(round(memory / _GRID) * _GRID, 2), len(values))
    p = [
        (1.0 + SURROGATES - float(np.searchsorted(taus, float(kendall(own)), "left"))) / (1.0 + SURROGATES)
        for own, taus in zip(rolling(residuals / largest), null, strict=True)
    ]
    return p[0], p[1]
