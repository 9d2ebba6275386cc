"""Viscosity: how much of the horizontal motion is diffusion (theory.md 4)."""

from __future__ import annotations

import math

from torch import Tensor

from shockwatch.observables.base import Observable, Point


class Viscosity(Observable):
    """``quotient/viscosity``: quadratic variation of the horizontal path per training time and ``2 dim``.

    Squared *second* differences are used: with displacements ``d1, d2`` over training times ``t1, t2``,
    ``|d2/t2 - d1/t1|^2 = 2 dim nu (1/t1 + 1/t2)`` for diffusion, and a steady drift drops out. A drift that turns
    between two snapshots is counted as diffusion, so without gradient noise the value is an upper bound.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, float] | None = None

    def compute(self, point: Point, previous: Point | None) -> dict[str, float]:
        value = math.nan
        if previous is not None:
            time = point.training_time - previous.training_time
            move = point.quotient.difference(point.canonical, previous.canonical)
            if self._last is not None and time > 0:
                before, earlier = self._last
                turn = point.quotient.square_norm(move / time - before / earlier)
                dim = point.quotient.count(point.canonical) - point.quotient.dim
                value = turn / (2 * max(dim, 1) * (1 / time + 1 / earlier))
            self._last = (move, time) if time > 0 else None
        return {"quotient/viscosity": value}
