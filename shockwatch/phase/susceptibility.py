"""How strongly the order parameter answers to noise."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from shockwatch.phase.early_warning import FEWEST, variance


class Susceptibility:
    """Variance of the order parameter ``quotient/norm`` over the viscosity, in units of training time.

    The quotient norm is zero before anything is learned and grows with what is (on a deep linear network its
    square is twice the sum of the learned singular values). In a valley of stiffness ``k`` it fluctuates as
    ``dx = -k x dt + sqrt(2 nu) dW``, so its variance is ``nu / k`` and variance over ``nu`` is the relaxation
    time ``1 / k``: it diverges where the valley flattens, at a transition (fluctuation-dissipation).
    The variance is taken about a line over the window, the viscosity is its median there.

    Args:
        window: observations remembered.
    """

    def __init__(self, window: int) -> None:
        self._seen: deque[tuple[float, float, float]] = deque(maxlen=window)

    def update(self, time: float, norm: float, viscosity: float) -> float:
        """Take the next observation; NaN until three have a viscosity above zero."""
        if self._seen and time <= self._seen[-1][0]:
            self._seen.clear()
        if math.isfinite(norm) and math.isfinite(viscosity) and viscosity > 0.0:
            self._seen.append((time, norm, viscosity))
        if len(self._seen) < FEWEST:
            return math.nan
        times, norms, viscosities = zip(*self._seen, strict=True)
        return variance(times, norms) / float(sorted(viscosities)[len(viscosities) // 2])

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain types."""
        return {"seen": [list(row) for row in self._seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`."""
        self._seen.clear()
        self._seen.extend((float(t), float(x), float(v)) for t, x, v in state["seen"])
