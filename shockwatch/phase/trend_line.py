"""The straight line through a few observations, and how sure its slope is."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


def line(seen: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Slope of the least-squares line through at least three ``(time, value)``, and its standard error."""
    times, values = np.array(list(seen)).T
    time = times - times.mean()
    power = float(time @ time)
    slope = float(time @ values) / power
    left = values - values.mean() - slope * time
    return slope, math.sqrt(float(left @ left) / (len(values) - 2) / power)
