"""Whether a space holds what becomes of the gradient until the next transition: linear response (theory.md 5)."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from shockwatch.curvature.ritz import Array, RitzSpace

_FURTHEST = 20.0  # e-foldings: by then what grows fastest is all that is left


def growth_time(curvature: float, slope: float, loss: float) -> float:
    """Time in which a mode of negative ``curvature`` and ``slope`` ``<g, u>`` (not negative) has grown to a drop of
    the order of the ``loss``: ``s' = |curvature| s + slope`` reaches ``curvature s^2 / 2 = loss``; inf where nothing
    pushes."""
    if not slope > 0.0:
        return math.inf
    size = math.sqrt(2.0 * loss / -curvature)
    return math.log1p(size * -curvature / slope) / -curvature


class LinearResponse:
    """The displacement ``d' = -(g + H d)`` until the first transition that the space announces, and what leaves it.

    A :data:`~shockwatch.curvature.extremes.Demand`: with ``(1 - V^T V) H d`` below a share of the gradient of then, the
    modes that the space shows, and the time at which they lead, are those of the whole quotient.

    Args:
        start: ``V g``, whose further entries are zero.
        loss: magnitude of the loss.
        share: of the gradient at the end that may be missing.
    """

    def __init__(self, start: Array, loss: float, share: float, most: int) -> None:
        self._start, self._loss, self._share, self._left = start, loss, share, most

    def __call__(self, space: RitzSpace) -> tuple[float, Tensor | None]:
        values, coordinates = space.ritz()
        slopes = self._start @ coordinates[: len(self._start)]
        times = [
            growth_time(float(v), abs(float(s)), self._loss) for v, s in zip(values, slopes, strict=True) if v < 0.0
        ]
        time = min(times, default=math.inf)
        if not time < math.inf:
            return 0.0, None
        time = min(time, -_FURTHEST / float(values[0]))
        scale = float(-values[0] * time)
        left = slopes * np.exp(-values * time - scale)
        # (1 - e^-x) / x, times the time; exact where x is small
        moved = slopes * -np.expm1(-values * time) * math.exp(-scale) / np.where(values == 0.0, 1.0, values)
        missing = space.moved_out(coordinates @ moved)
        size, allowed = float(missing.norm()), self._share * float(np.linalg.norm(left))
        if size <= allowed or not self._left:
            return 0.0, None
        self._left -= 1
        return size / allowed, missing
