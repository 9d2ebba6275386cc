"""A forecast from the path alone, without gradients or curvature: where the speed would blow up (theory.md 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_MEMORY = 8  # rates the line is fitted to
_LEAST = 5
_ERRORS = 3.0  # the line must fall by this many standard errors of its slope, and end by as many of its level


class TrajectoryForecaster:
    """Fits a straight line to ``1 / rate``, ``rate = d log|v| / dt``, and follows it to zero.

    Along a Burgers characteristic ``ds/dtau = -s^2``: ``1/s`` is linear in ``tau`` and reaches 0 at the shock. A
    speed that grows like any power, ``|v| ~ (t* - t)^-p``, has ``1 / rate = (t* - t) / p``: the zero of the line is
    ``t*``, whatever ``p`` is. A speed that grows exponentially has a level line, and the path alone does not say when
    the growth ends; a speed that does not grow has no transition ahead: both give NaN. Deep linear networks of three
    and more layers leave their saddle in the first way, those of two layers in the second.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None  # time and log speed at the middle of the last move
        self._rates: list[tuple[float, float]] = []  # time, 1 / rate

    def update(self, *, training_time: float, before: float, moved: float) -> tuple[float, float]:
        """Remaining training time and its standard error; NaN and NaN where the path does not say.

        Args:
            training_time: at the snapshot.
            before: at the snapshot before it.
            moved: horizontal distance between the two.
        """
        missing = (math.nan, math.nan)
        if not (training_time > before and 0.0 < moved < math.inf):
            self._last, self._rates = None, []
            return missing
        middle = 0.5 * (training_time + before)
        speed = math.log(moved / (training_time - before))
        if self._last is not None and middle > self._last[0]:
            rate = (speed - self._last[1]) / (middle - self._last[0])
            if rate > 0.0:
                self._rates = [*self._rates, (0.5 * (middle + self._last[0]), 1.0 / rate)][-_MEMORY:]
            else:
                self._rates = []
        self._last = (middle, speed)
        if len(self._rates) < _LEAST:
            return missing
        return self._extrapolate(training_time)

    def _extrapolate(self, now: float) -> tuple[float, float]:
        time, inverse = np.array(self._rates).T
        centre = time.mean()
        spread = float(((time - centre) ** 2).sum())
        slope = float(((time - centre) * inverse).sum()) / spread
        level = float(inverse.mean())
        rest = inverse - level - slope * (time - centre)
        scatter = math.sqrt(float(rest @ rest) / (len(time) - 2))
        slope_error, level_error = scatter / math.sqrt(spread), scatter / math.sqrt(len(time))
        if slope >= -_ERRORS * slope_error or level <= _ERRORS * level_error:
            return math.nan, math.nan
        remaining = centre - level / slope - now
        if remaining <= 0.0:
            return math.nan, math.nan
        return remaining, -math.hypot(level_error, level / slope * slope_error) / slope

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {"last": self._last and list(self._last), "rates": [list(entry) for entry in self._rates]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        last = state["last"]
        self._last = None if last is None else (float(last[0]), float(last[1]))
        self._rates = [(float(time), float(inverse)) for time, inverse in state["rates"]]
