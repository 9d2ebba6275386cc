"""Viscosity: how much of the horizontal motion is diffusion (theory.md 4)."""

from __future__ import annotations

import math

from shockwatch.norms import square_norm
from shockwatch.observables.base import Observable, Point
from shockwatch.snapshot import State


class Viscosity(Observable):
    """``quotient/viscosity``: quadratic variation of the horizontal path per training time and ``2 dim``.

    Squared *second* differences are used: with displacements ``d1, d2`` over training times ``t1, t2``,
    ``|d2/t2 - d1/t1|^2 = 2 dim nu (1/t1 + 1/t2)`` for diffusion, and a steady drift drops out. A drift that turns
    between two snapshots is counted as diffusion, so without gradient noise the value is an upper bound.
    """

    def __init__(self) -> None:
        self._last: tuple[State, float] | None = None

    def compute(self, point: Point, previous: Point | None) -> dict[str, float]:
        value = math.nan
        if previous is not None:
            names = point.quotient.names
            time = point.training_time - previous.training_time
            move = {n: point.canonical[n] - previous.canonical[n] for n in names}
            if self._last is not None and time > 0:
                before, earlier = self._last
                turn = sum(square_norm(move[n] / time - before[n] / earlier) for n in names)
                dim = sum(point.canonical[n].numel() for n in names) - point.quotient.dim
                value = turn / (2 * max(dim, 1) * (1 / time + 1 / earlier))
            self._last = (move, time) if time > 0 else None
        return {"quotient/viscosity": value}
