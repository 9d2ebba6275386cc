"""The same run without the quotient: the only numbers that depend on the gauge."""

from __future__ import annotations

import math

from shockwatch.observables.base import Observable, Point

_DRIFT_ACCURACY = 1e-3


class RawMotion(Observable):
    """``raw/norm``, ``raw/speed`` (per step), ``raw/drift`` and ``raw/imbalance/<group>``.

    Drift is the share of the last displacement that runs along orbits: ``|vertical| / |displacement|``.
    """

    def compute(self, point: Point, previous: Point | None) -> dict[str, float]:
        quotient = point.quotient
        speed = drift = math.nan
        if previous is not None:
            move = {n: point.raw[n] - previous.raw[n] for n in quotient.names}
            size = quotient.euclidean(point.raw, previous.raw)
            speed = size / max(point.step - previous.step, 1)
            if size > 0:
                orbits = quotient.projector(previous.raw, tolerance=_DRIFT_ACCURACY, often=False)
                drift = orbits.vertical_norm(move) / size
        return {
            "raw/norm": quotient.norm(point.raw),
            "raw/speed": speed,
            "raw/drift": drift,
            **quotient.imbalance(point.raw),
        }
