"""Whether a space holds what becomes of the gradient until the next transition: linear response (theory.md 5)."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from shockwatch.curvature.ritz import Array, RitzSpace

_MISSING = 0.05  # share of the gradient at the transition that may have left
_MIXED = 0.1  # residual of the mode that brings it, over its curvature
_FURTHEST = 20.0  # e-foldings: by then what grows fastest is all that is left


def growth_time(curvature: float, slope: float, loss: float) -> float:
    """Training time in which one unstable mode grows to a drop of the order of the loss.

    ``s' = |curvature| s + |slope|`` from 0 until ``|curvature| s^2 / 2 = loss``; inf where nothing pushes.

    Args:
        curvature: negative.
        slope: ``<g, u>``.
        loss: not negative.
    """
    if slope == 0.0:
        return math.inf
    size = math.sqrt(2.0 * loss / -curvature)
    return math.log1p(size * -curvature / abs(slope)) / -curvature


class LinearResponse:
    """A demand on a space: that ``d' = -(g + H d)`` stays in it until the first transition it announces.

    Then the time at which unstable modes lead is that of the whole quotient. What leaves it is ``(1 - V^T V) H d``,
    measured by the gradient of that time. The mode that is to bring the transition must be one mode besides: the
    response cannot tell a few that grow alike from one, a slice can.

    Args:
        norm: ``|g|``; ``g / |g|`` is the first vector of the space.
        loss: magnitude of the loss.
        most: times that a vector is asked for.
    """

    def __init__(self, norm: float, loss: float, most: int) -> None:
        self._norm, self._loss, self._left = norm, loss, most

    def __call__(self, space: RitzSpace) -> tuple[float, Tensor | None]:
        """What leaves ``space`` over what may, 0 where nothing is unstable; and that vector, where it is too much."""
        values, coordinates = space.ritz()
        slopes = self._norm * coordinates[0]
        times = [
            growth_time(float(value), float(slope), self._loss) if value < 0.0 else math.inf
            for value, slope in zip(values, slopes, strict=True)
        ]
        time = min(times)
        if not (self._left and time < math.inf):
            return 0.0, None
        first = times.index(time)
        time = min(time, -_FURTHEST / float(values[0]))
        # both over e^|lambda_min| t, which may be large
        largest = -float(values[0]) * time
        then = slopes * np.exp(-values * time - largest)
        moved = math.exp(-largest) * slopes * -np.expm1(-values * time) / np.where(values == 0.0, 1.0, values)
        excess, missing = _excess(space, coordinates @ moved, _MISSING * float(np.linalg.norm(then)))
        if excess <= 1.0:
            excess, missing = _excess(space, coordinates[:, first], -_MIXED * float(values[first]))
        if excess <= 1.0:
            return excess, None
        self._left -= 1
        return excess, missing


def _excess(space: RitzSpace, coordinates: Array, allowed: float) -> tuple[float, Tensor]:
    """What the operator moves out of the space, and its size over what is allowed."""
    missing = space.moved_out(coordinates)
    return float(missing.norm()) / allowed, missing
