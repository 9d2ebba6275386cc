"""How near the run is to the edge of stability, and when it will get there."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from shockwatch.phase.trend_line import line

_MEMORY = 8  # probes a trend is read from
_FEWEST = 4


class Stability:
    """Follows half of ``shock/lr_lambda_max``: 1 is the edge of gradient descent.

    Beyond it every step overshoots along the sharpest direction (Cohen et al. 2021). The arrival is read off the
    straight line through the last eight probes: it is given where the line rises by more than two standard errors,
    from 0.25 on, and no farther ahead than the line has been watched: there it is as well supported as behind.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=_MEMORY)

    def update(self, step: int, value: float) -> float:
        """Take the next value and return the steps left until it reaches 1, 0 beyond it; NaN if not foreseen."""
        if self._seen and step <= self._seen[-1][0]:
            self._seen.clear()
        if not math.isfinite(value):
            return math.nan
        self._seen.append((float(step), value))
        if value >= 1.0:
            return 0.0
        if len(self._seen) < _FEWEST or value < 0.25:
            return math.nan
        slope, error = line(self._seen)
        if slope <= 2.0 * error or slope <= 0.0:
            return math.nan
        ahead = (1.0 - value) / slope
        return ahead if ahead <= self._seen[-1][0] - self._seen[0][0] else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain types."""
        return {"seen": [list(pair) for pair in self._seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`."""
        self._seen.clear()
        self._seen.extend((float(step), float(value)) for step, value in state["seen"])
