"""Early-warning statistics of a scalar series: pure functions of a window of observations.

Before a system tips it recovers more slowly from every push, so the variance and the lag-1
autocorrelation of its fluctuations rise (Scheffer et al. 2009). Both are taken about a straight line:
a trend is no fluctuation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

FEWEST = 3
"""Observations below which nothing can be said: a line through two points leaves no residual."""


def detrended(times: Sequence[float], values: Sequence[float]) -> NDArray[np.float64]:
    """Return the residuals of ``values`` about their least-squares line in ``times``.

    Residuals that are rounding errors are returned as exact zeros.
    """
    t = np.asarray(times, dtype=np.float64)
    x = np.asarray(values, dtype=np.float64)
    t = t - t.mean()
    centred = x - x.mean()
    residuals: NDArray[np.float64] = centred - t * (float(t @ centred) / float(t @ t))
    rounding = 8.0 * np.finfo(np.float64).eps * len(x) * float(np.abs(x).max())
    if float(np.abs(residuals).max()) <= rounding:
        return np.zeros_like(residuals)
    return residuals


def variance(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the variance about the line, unbiased (``n - 2`` degrees of freedom); NaN below three."""
    if len(values) < FEWEST:
        return math.nan
    residuals = detrended(times, values)
    return float(residuals @ residuals) / (len(residuals) - 2)


def autocorrelation(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the lag-1 autocorrelation about the line, in [-1, 1]; NaN below three.

    ``sum e_i e_(i+1) / sum e_i^2``; 0 for a series without fluctuations. Successive observations count
    as one lag however far apart they are. Short windows are biased towards negative values, by about
    ``(2 + 4 r) / n``: compare like with like.
    """
    if len(values) < FEWEST:
        return math.nan
    residuals = detrended(times, values)
    largest = float(np.abs(residuals).max())
    if largest == 0.0:
        return 0.0
    residuals = residuals / largest  # squares of very small numbers underflow
    power = float(residuals @ residuals)
    return float(residuals[:-1] @ residuals[1:]) / power


def trend(times: Sequence[float], values: Sequence[float]) -> float:
    """Return Kendall's rank correlation of the values with time, in [-1, 1]; NaN below three.

    0 for a constant series.
    """
    if len(values) < FEWEST:
        return math.nan
    tau = float(kendalltau(times, values).statistic)
    return 0.0 if math.isnan(tau) else tau
