"""The path on the quotient: norm, speed, length, distance from the start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from shockwatch.observables.base import Observable, Point
from shockwatch.snapshot import State
from shockwatch.symmetry.gauge import Gauge
from shockwatch.symmetry.packing import Packed


class QuotientPath(Observable):
    """``quotient/norm``, ``speed`` (per optimiser step), ``path_length`` and ``distance_from_start``.

    All in units of the parameters.
    """

    def __init__(self) -> None:
        self._length = 0.0
        self._start: State | None = None
        self._start_step: int | None = None
        self._gauge = Gauge()

    def compute(self, point: Point, previous: Point | None) -> dict[str, float]:
        quotient = point.quotient
        if self._start is None:
            self._start, self._start_step = quotient.pack(point.canonical), point.step
        elif not isinstance(self._start, Packed):
            self._start = quotient.pack({**point.canonical, **self._start})
        moved = speed = math.nan
        if previous is not None:
            moved = quotient.euclidean(point.canonical, previous.canonical)
            self._length += moved
            speed = moved / max(point.step - previous.step, 1)
        return {
            "quotient/norm": quotient.norm(point.canonical),
            "quotient/speed": speed,
            "quotient/path_length": self._length,
            "quotient/distance_from_start": self._from_start(point, previous, moved),
        }

    def _from_start(self, point: Point, previous: Point | None, moved: float) -> float:
        assert self._start is not None
        quotient = point.quotient
        if previous is not None and previous.step == self._start_step:
            return moved  # it is aligned with the start itself
        # Alignment along the way follows the path; the distance wants the nearest point of the orbit.
        nearest = quotient.align(point.canonical, self._start, self._gauge)
        return quotient.euclidean(nearest, self._start)

    def state_dict(self) -> dict[str, Any]:
        return {"length": self._length, "start": None if self._start is None else dict(self._start)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._length = float(state["length"])
        self._start = state["start"]
