"""The empirical measure of neurons along the path (mean-field view; theory.md 1)."""

from __future__ import annotations

import math

from shockwatch.observables.base import Observable, Point
from shockwatch.symmetry.groups import Permutation
from shockwatch.symmetry.measure import unit_measure, wasserstein

# Most units of a layer: an assignment takes O(N^3), about 0.04 s here. Wider layers are left out.
_MOST_UNITS = 256


class MeasureMotion(Observable):
    """``quotient/measure_speed``: Wasserstein-2 between the measures of two snapshots, per step.

    Over several hidden axes: the root of the sum of squares. It never exceeds what ``quotient/speed`` says of the same
    weights, divided by the root of the number of units, and stays below where units trade places. NaN where
    no hidden axis has one order.
    """

    def compute(self, point: Point, previous: Point | None) -> dict[str, float]:
        groups = [
            group
            for group in point.quotient.groups
            if isinstance(group, Permutation) and not group.batch and 1 < group.units.size <= _MOST_UNITS
        ]
        if previous is None or not groups:
            return {"quotient/measure_speed": math.nan}
        squares = [
            wasserstein(unit_measure(g, point.canonical), unit_measure(g, previous.canonical)) ** 2
            for g in groups
        ]
        return {"quotient/measure_speed": math.sqrt(sum(squares)) / max(point.step - previous.step, 1)}
