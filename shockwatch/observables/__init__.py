"""Numbers read off the path of snapshots. A new family is one file here and one line in ``OBSERVABLES``.

Outside the package, ``OBSERVABLES.append(MyObservable)`` before training adds one; its tags begin with ``custom/``.
"""

from __future__ import annotations

from collections.abc import Callable

from shockwatch.observables.base import Observable, Point
from shockwatch.observables.blocks import BlockInvariants
from shockwatch.observables.measure import MeasureMotion
from shockwatch.observables.path import QuotientPath
from shockwatch.observables.raw import RawMotion
from shockwatch.observables.viscosity import Viscosity

OBSERVABLES: list[Callable[[], Observable]] = [
    QuotientPath,
    RawMotion,
    Viscosity,
    BlockInvariants,
    MeasureMotion,
]

__all__ = [
    "OBSERVABLES",
    "BlockInvariants",
    "MeasureMotion",
    "Observable",
    "Point",
    "QuotientPath",
    "RawMotion",
    "Viscosity",
]
