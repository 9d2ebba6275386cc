"""How near the run is to the edge of stability, and when it will get there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from shockwatch.phase.trend_line import line

_MEMORY = 6  # probes a trend is read from
_FEWEST = 4
_LEAST = 0.25  # of the way to the edge: below it no arrival is told


class Stability:
    """Follows half of ``shock/lr_lambda_max``: 1 is the edge of gradient descent.

    Beyond it every step overshoots along the sharpest direction (Cohen et al. 2021). A schedule that raises the rate
    in proportion to time, and a curvature that rises along with it, make a ratio that grows like the square of time:
    the arrival is read off the straight line through the square roots of the last six ratios. Growth proportional to
    time would arrive later, exponential growth earlier; what lies between the two is the interval. An arrival is given
    where the line rises by more than two standard errors, from a quarter of the way on, and no farther ahead than the
    line has been watched: there it is as well supported as behind.

    On the even seeds of ``examples/benchmarks/labelled``, from which this was worked out, the median error is 20 % of
    the steps left and the interval covers 78 %; on the odd ones 12 % and 86 %.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=_MEMORY)

    def update(self, step: int, value: float) -> tuple[float, float]:
        """Take the next value; steps left until it reaches 1, and half the width of their interval.

        Both are 0 beyond the edge, and NaN where nothing is foreseen.
        """
        if self._seen and step <= self._seen[-1][0]:
            self._seen.clear()
        if not (math.isfinite(value) and value > 0.0):
            return math.nan, math.nan
        self._seen.append((float(step), value))
        if value >= 1.0:
            return 0.0, 0.0
        if len(self._seen) < _FEWEST or value < _LEAST:
            return math.nan, math.nan
        ahead = self._arrival(math.sqrt)
        if not ahead <= self._seen[-1][0] - self._seen[0][0]:
            return math.nan, math.nan
        sides = (ahead - self._arrival(math.log), self._arrival(float) - ahead)
        return ahead, max((side for side in sides if not math.isnan(side)), default=math.nan)

    def _arrival(self, scale: Callable[[float], float]) -> float:
        """Steps until the line through the scaled values reaches ``scale(1)``; NaN where it does not rise surely."""
        slope, error = line((step, scale(value)) for step, value in self._seen)
        surely = slope > 2.0 * error and slope > 0.0
        return (scale(1.0) - scale(self._seen[-1][1])) / slope if surely else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain types."""
        return {"seen": [list(pair) for pair in self._seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`."""
        self._seen.clear()
        self._seen.extend((float(step), float(value)) for step, value in state["seen"])
