"""The minimum-norm point of an orbit: closed forms, coupled where groups share weights (theory.md 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.anderson import Anderson
from shockwatch.symmetry.gauge import Gauge
from shockwatch.symmetry.groups import ContinuousGroup, GeneralLinear, ScalingGroup
from shockwatch.symmetry.tables import ScalingTables

_MOST_SWEEPS = 1000
_MOST_PASSES = 3
_ROUNDING = 1e4
_PATIENCE = 4
_STEADY = 0.1  # a rate of convergence counts as known when it changes by less than this share of its distance from one


def components(groups: Sequence[ContinuousGroup]) -> list[list[ContinuousGroup]]:
    """The groups in sets that share no piece, each in the order given."""
    sets: list[tuple[set[str], list[ContinuousGroup]]] = []
    for group in groups:
        labels = set(group.shared)
        together = [s for s in sets if s[0] & labels]
        sets = [s for s in sets if not s[0] & labels]
        members = [g for _, old in together for g in old]
        sets.append((labels.union(*(old for old, _ in together)), [*members, group]))
    place = {id(group): k for k, group in enumerate(groups)}
    return [sorted(members, key=lambda g: place[id(g)]) for _, members in sets]


def balance_(groups: Sequence[ContinuousGroup], state: State, gauge: Gauge | None = None) -> int:
    """Move ``state`` in place to the canonical form of all ``groups`` of one component; returns the number of sweeps.

    Over tensors or over tables, whichever were more.
    Groups whose form the others keep come first and once, all scalings together on their reduced tables; only where
    something else shares a piece with them do closed forms alternate over the tensors themselves.

    Args:
        gauge: the element to start from; it becomes the one that was applied.
    """
    gauge = Gauge() if gauge is None else gauge
    kept = [g for g in groups if g.kept_by_others]
    scalings = [g for g in groups if isinstance(g, ScalingGroup)]
    others = [g for g in groups if g not in kept and not isinstance(g, ScalingGroup) and not g.isometric]
    # twice: one may hand its shift to the next
    for group in kept * min(len(kept), 2):
        group.canonicalize_(state)
    tolerance = _tolerance(groups, state)
    known = [gauge.logs[group].reshape(-1) for group in scalings if group in gauge.logs]
    start = torch.cat(known) if known else None
    if not others:
        if not scalings:
            return 0
        logs, sweeps = balancing_logs(living_tables_(scalings, state), tolerance, start)
        scale_(scalings, state, logs)
        _remember(gauge, scalings, logs)
        return sweeps
    for group in others:
        if isinstance(group, GeneralLinear) and group in gauge.turns:
            group.apply_(state, gauge.turns[group])
    if not scalings:
        return _alternate_(others, state, tolerance, gauge)
    if start is not None:
        scale_(scalings, state, start)
    memory = Anderson()
    point = ScalingTables(scalings, state).zeros() if start is None else start
    progress, most = _Progress(tolerance), 0
    for _ in range(_MOST_SWEEPS):
        moved = max(_step_(group, state, gauge) for group in others)
        # The others follow from the scales alone, so the sweep is a map of the scales.
        change, inner = balancing_logs(living_tables_(scalings, state), tolerance)
        most = max(most, inner)
        if progress.done(max(moved, float(change.abs().max()))):
            break
        following = memory.next(point, point + change)
        scale_(scalings, state, following - point)
        point = following
    _remember(gauge, scalings, point)
    return max(most, progress.sweeps)


def _step_(group: ContinuousGroup, state: State, gauge: Gauge, power: float = 1.0) -> float:
    if not isinstance(group, GeneralLinear):
        return group.canonicalize_(state)
    moved, matrix = group.relax_(state, power)
    gauge.turn(group, matrix)
    return moved


def _remember(gauge: Gauge, groups: Sequence[ScalingGroup], logs: Tensor) -> None:
    parts = torch.split(logs, [math.prod(atom.size for atom in group.units) for group in groups])
    gauge.logs.update(zip(groups, parts, strict=True))


class _Progress:
    """When to stop: at the tolerance, or where rounding keeps moving ill-conditioned weights by a little more."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance, self._least, self._since = tolerance, math.inf, 0
        self.sweeps = 0

    def done(self, moved: float) -> bool:
        self.sweeps += 1
        self._least, self._since = (moved, 0) if moved < self._least else (self._least, self._since + 1)
        stalled = self._least < _ROUNDING * self._tolerance and self._since >= _PATIENCE
        return moved < self._tolerance or stalled


def _alternate_(groups: Sequence[ContinuousGroup], state: State, tolerance: float, gauge: Gauge) -> int:
    """Closed forms one after the other, over-relaxed once their rate is known (Young 1954)."""
    progress = _Progress(tolerance)
    if len(groups) == 1:
        # A further pass removes what an ill-conditioned first one leaves.
        while progress.sweeps < _MOST_PASSES and not progress.done(_step_(groups[0], state, gauge)):
            pass
        return 1
    power, rate, before = 1.0, math.inf, math.inf
    for _ in range(_MOST_SWEEPS):
        moved = max(_step_(group, state, gauge, power) for group in groups)
        if progress.done(moved):
            break
        last, rate = rate, moved / before
        if power == 1.0 and abs(rate - last) < _STEADY * (1 - rate):
            power = 2.0 / (1.0 + math.sqrt(1.0 - rate))
        before = moved
    return progress.sweeps


def living_tables_(groups: Sequence[ScalingGroup], state: State) -> ScalingTables:
    """Tables of ``state`` once units that are zero on one side are zero in place, and those that this makes so."""
    while True:
        tables = ScalingTables(groups, state)
        logs = tables.split(tables.zeros())
        changed = [g.extinguish_(state, tables.norms(k, logs)) for k, g in enumerate(groups)]
        if not any(changed):
            return tables


def balancing_logs(
    tables: ScalingTables, tolerance: float, start: Tensor | None = None
) -> tuple[Tensor, int]:
    """Logarithms of the scales, all units of all groups, that bring the tables' state to its canonical form.

    With the number of sweeps over the tables.
    """
    memory, progress = Anderson(), _Progress(tolerance)
    point = tables.zeros() if start is None else start
    for _ in range(_MOST_SWEEPS):
        image = tables.sweep(point)
        if len(tables.groups) == 1 or progress.done(float((image - point).abs().max())):
            break
        point = memory.next(point, image)
    return image, progress.sweeps


def scale_(groups: Sequence[ScalingGroup], state: State, logs: Tensor) -> None:
    """Apply the scales ``exp(logs)`` in place."""
    shapes = [[atom.size for atom in group.units] for group in groups]
    parts = torch.split(logs, [math.prod(shape) for shape in shapes])
    for group, log, shape in zip(groups, parts, shapes, strict=True):
        group.scale_(state, log.reshape(shape))


def _tolerance(groups: Sequence[ContinuousGroup], state: State) -> float:
    wide = all(piece.view(state).dtype == torch.float64 for g in groups for piece in g.pieces[:1])
    return 1e-13 if wide else 3e-7
