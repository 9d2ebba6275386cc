"""The analysis of a run that has no room for copies of the past: it keeps sketches of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from shockwatch.engine.engine import JUMP, Engine
from shockwatch.engine.watched_step import WatchedStep
from shockwatch.norms import square_norm
from shockwatch.observables import MeasureMotion, Point, QuotientPath, RawMotion, Viscosity
from shockwatch.sketches import RandomProjection, SignFrame
from shockwatch.snapshot import Snapshot, State
from shockwatch.symmetry import Quotient
from shockwatch.symmetry.groups import Permutation
from shockwatch.symmetry.order import UnitOrder

SHARE = 0.049
"""Most memory between two snapshots, as a share of that of the parameters, where they are 100,000 or more."""

_FRAME_SHARE = 0.0155  # of each of two frames
_POINTS = 4  # sketches: the start, the last point, the last move, the last raw point
_FEWEST, _MOST = 1024, 8192  # numbers of a sketch: the standard deviation of a length is sqrt(1 / 2 size)
_SMALL = 8192  # bytes of everything else: a generator, the indicators
_RENEW = 0.1  # of the norm: farther from where its frame was taken, a path is turned to a new one

NOTE = (
    "memory is short: sketches of the path are kept, not points. Speed, path_length, distance_from_start and viscosity "
    "are estimates to a few per cent; quotient/measure_speed, raw/drift and shock/gradient_field would need "
    "points and are NaN; curvature is measured only where its vectors find room."
)

_REPLACED = (QuotientPath, RawMotion, Viscosity, MeasureMotion)


@dataclass
class _Kept:
    """All that stays from one snapshot to the next.

    Attributes:
        start: sketch of the first point, turned to ``first``.
        last, raw: sketches of the last point, turned to ``frame``, and of its raw parameters.
        move: sketch of the last move, and the training time it took; None after a turn to a new frame.
        length: of the path.
        travelled: of the path since ``frame``.
    """

    start: Tensor
    last: Tensor
    raw: Tensor
    first: SignFrame
    frame: SignFrame
    move: tuple[Tensor, float] | None = None
    length: float = 0.0
    travelled: float = 0.0
    order: UnitOrder = field(default_factory=UnitOrder)


class SketchedEngine(Engine):
    """An :class:`Engine` that keeps at most 5 % of the parameters' memory from one snapshot to the next.

    Of each canonical point a random projection stays, and of two of them (the first, and one within a tenth of the
    norm of the last) some signs, to turn the next point as they are turned. One analysis builds up to ten copies of the
    parameters, with the one it is given, and frees them (the first 16; ``examples/benchmarks/memory.py``).
    A snapshot gives the same values in every gauge.

    A probe is made where its vectors fit into what memory is free then; it starts from nothing that earlier ones have
    seen. ``quotient/measure_speed`` (which asks for all units of two points), ``raw/drift`` and
    ``shock/gradient_field`` are NaN. Observables that were added see no earlier point. Below 100,000 parameters a
    sketch has 1,024 numbers, and is the point itself where there are fewer.
    """

    sketched: ClassVar[bool] = True

    def __init__(
        self, step: WatchedStep, horizon: int, seed: int, *, mean_run_length: float = 1000.0
    ) -> None:
        super().__init__(step, horizon, seed, mean_run_length=mean_run_length)
        self._observables = [o for o in self._observables if not isinstance(o, _REPLACED)]
        self._look.forgets = True
        self._seed = seed
        self._project: RandomProjection | None = None
        self._kept: _Kept | None = None
        self._saved: Mapping[str, Any] | None = None
        self._length = 0.0
        self._values: dict[str, float] = {}

    def _describe(self, quotient: Quotient, state: State) -> tuple[str, ...]:
        return (*super()._describe(quotient, state), NOTE)

    def _point(self, quotient: Quotient, snapshot: Snapshot) -> Point:
        if self._saved is not None:
            saved, self._saved = self._saved, None
            self._kept = _restored(saved, quotient)
            self._previous = Point(int(saved["clock"][0]), float(saved["clock"][1]), {}, {}, quotient)
        if self._project is None:
            self._project = _projection(quotient, snapshot.state, self._seed)
        before, self._values = self._previous, {}
        if self._kept is None or before is None:
            return self._first(quotient, snapshot)
        canonical, sketch = self._followed(quotient, snapshot, self._kept)
        point = Point(snapshot.step, snapshot.training_time, snapshot.state, canonical, quotient)
        self._values = self._advance(point, before, self._kept, sketch)
        return point

    def _observe(self, point: Point, previous: Point | None, errors: list[Exception]) -> dict[str, float]:
        return {**self._values, **super()._observe(point, None, errors)}

    def _remember(self, point: Point) -> Point:
        return replace(point, raw={}, canonical={})

    # -- the path ---------------------------------------------------------------------------------

    def _sketch(self, quotient: Quotient, state: Mapping[str, Tensor]) -> Tensor:
        assert self._project is not None
        return self._project(quotient.flatten(state))

    def _first(self, quotient: Quotient, snapshot: Snapshot) -> Point:
        canonical = quotient.canonicalize(snapshot.state)
        order = UnitOrder()
        if any(isinstance(group, Permutation) for group in quotient.groups):
            # later snapshots have their units in the order of the model
            _, order = quotient.match_with_order(quotient.balance(snapshot.state), canonical)
        frame = SignFrame(quotient, canonical, _FRAME_SHARE)
        if _turns(quotient):
            canonical = quotient.turn(canonical, frame.reference(canonical))
        sketch, raw = self._sketch(quotient, canonical), self._sketch(quotient, snapshot.state)
        self._kept = _Kept(sketch, sketch, raw, frame, frame, length=self._length, order=order)
        point = Point(snapshot.step, snapshot.training_time, snapshot.state, canonical, quotient)
        self._values = {
            "quotient/norm": quotient.norm(canonical),
            "quotient/speed": math.nan,
            "quotient/path_length": self._length,
            "quotient/distance_from_start": 0.0,
            **_nothing(),
            **self._raw(point, math.nan),
        }
        return point

    def _followed(self, quotient: Quotient, snapshot: Snapshot, kept: _Kept) -> tuple[State, Tensor]:
        """The canonical point turned to the frame of the path, and its sketch."""
        state = kept.order.apply(snapshot.state)
        reference = kept.frame.reference(state)
        canonical: State = quotient.turn(quotient.balance(state), reference)
        sketch = self._sketch(quotient, canonical)
        moved = _distance(sketch, kept.last)
        if moved > JUMP * quotient.norm(canonical):
            # units changed places: see Engine
            matched, order = quotient.match_with_order(canonical, reference)
            if _turns(quotient):
                matched = quotient.turn(matched, reference)
            other = self._sketch(quotient, matched)
            if _distance(other, kept.last) < moved / 2:
                kept.order = kept.order.then(order)
                return matched, other
        return canonical, sketch

    def _advance(self, point: Point, before: Point, kept: _Kept, sketch: Tensor) -> dict[str, float]:
        quotient, norm = point.quotient, point.quotient.norm(point.canonical)
        steps, time = max(point.step - before.step, 1), point.training_time - before.training_time
        move = sketch - kept.last
        moved = math.sqrt(square_norm(move))
        kept.length += moved
        kept.travelled += moved
        raw = self._sketch(quotient, point.raw)
        values = {
            "quotient/norm": norm,
            "quotient/speed": moved / steps,
            "quotient/path_length": kept.length,
            "quotient/distance_from_start": self._from_start(point, kept, sketch),
            **_nothing(),
            "quotient/viscosity": _viscosity(kept.move, move, time, point),
            **self._raw(point, _distance(raw, kept.raw) / steps),
        }
        kept.last, kept.raw = sketch, raw
        kept.move = (move, time) if time > 0 else None
        if _turns(quotient) and kept.travelled > _RENEW * norm:
            kept.frame = SignFrame(quotient, point.canonical, _FRAME_SHARE)
            turned = quotient.turn(point.canonical, kept.frame.reference(point.canonical))
            # the last move belongs to the old frame
            kept.last, kept.move, kept.travelled = self._sketch(quotient, turned), None, 0.0
        return values

    def _from_start(self, point: Point, kept: _Kept, sketch: Tensor) -> float:
        if kept.first is not kept.frame:
            nearest = point.quotient.turn(point.canonical, kept.first.reference(point.canonical))
            sketch = self._sketch(point.quotient, nearest)
        return _distance(sketch, kept.start)

    @staticmethod
    def _raw(point: Point, speed: float) -> dict[str, float]:
        return {
            "raw/norm": point.quotient.norm(point.raw),
            "raw/speed": speed,
            "raw/drift": math.nan,
            **point.quotient.imbalance(point.raw),
        }

    # -- checkpoints ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the indicators remember, and the sketches in place of points."""
        kept, before = self._kept, self._previous
        state = {
            **super().state_dict(),
            "canonical": None,
            "raw": None,
            "clock": None,
            "sketches": self._saved,
        }
        if kept is not None and before is not None:
            place = {id(group): k for k, group in enumerate(before.quotient.groups)}
            state["sketches"] = {
                **{name: getattr(kept, name) for name in ("start", "last", "raw", "length", "travelled")},
                "clock": [before.step, before.training_time],
                "move": None if kept.move is None else list(kept.move),
                "frames": [f.state_dict() for f in dict.fromkeys((kept.first, kept.frame))],
                "order": [[place[id(group)], order] for group, order in kept.order.moves],
            }
            # for a run that goes on in full
            state["observables"]["QuotientPath"] = {"length": kept.length, "start": None}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`. From a state in full the path keeps its length, and a new start."""
        super().load_state_dict({**state, "canonical": None})
        self._saved = state.get("sketches")
        self._length = float(state["observables"].get("QuotientPath", {}).get("length", 0.0))


def _turns(quotient: Quotient) -> bool:
    return any(group.has_frame for group in quotient.groups)


def _distance(one: Tensor, other: Tensor) -> float:
    return math.sqrt(square_norm(one - other))


def _nothing() -> dict[str, float]:
    return {"quotient/viscosity": math.nan, "quotient/measure_speed": math.nan}


def _viscosity(before: tuple[Tensor, float] | None, move: Tensor, time: float, point: Point) -> float:
    """As :class:`~shockwatch.observables.Viscosity`, of sketches."""
    if before is None or time <= 0:
        return math.nan
    last, earlier = before
    turn = square_norm(move / time - last / earlier)
    dim = sum(point.canonical[n].numel() for n in point.quotient.names) - point.quotient.dim
    return turn / (2 * max(dim, 1) * (1 / time + 1 / earlier))


def _projection(quotient: Quotient, state: State, seed: int) -> RandomProjection:
    """As many numbers as the frames leave room for."""
    length = sum(state[n].numel() for n in quotient.names)
    size = sum(state[n].numel() * state[n].element_size() for n in quotient.names)
    width = max(4, *(state[n].element_size() for n in quotient.names))
    units = sum(
        math.prod(a.size for a in (*g.batch, g.units)) for g in quotient.groups if isinstance(g, Permutation)
    )
    frames = 2 if _turns(quotient) else int(units > 0)
    room = ((SHARE - frames * _FRAME_SHARE) * size - 8 * units - _SMALL) / (_POINTS * width)
    return RandomProjection(length, min(max(int(room), _FEWEST), _MOST), seed)


def _restored(saved: Mapping[str, Any], quotient: Quotient) -> _Kept:
    frames = [SignFrame.of(frame) for frame in saved["frames"]]
    move = saved["move"]
    moves = [(quotient.groups[int(k)], order) for k, order in saved["order"]]
    if not all(isinstance(group, Permutation) for group, _ in moves):
        raise ValueError("order: belongs to other groups than those of this model")
    return _Kept(
        saved["start"],
        saved["last"],
        saved["raw"],
        frames[0],
        frames[-1],
        None if move is None else (move[0], float(move[1])),
        float(saved["length"]),
        float(saved["travelled"]),
        UnitOrder((g, order) for g, order in moves if isinstance(g, Permutation)),
    )
