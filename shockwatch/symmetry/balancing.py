"""The minimum-norm point of an orbit: closed forms, coupled where groups share weights (theory.md 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.anderson import Anderson
from shockwatch.symmetry.groups import ContinuousGroup, ScalingGroup
from shockwatch.symmetry.tables import ScalingTables

_MOST_SWEEPS = 1000


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


def balance_(groups: Sequence[ContinuousGroup], state: State) -> None:
    """Move ``state`` in place to the canonical form of all ``groups`` of one component.

    Groups whose form the others keep come first and once, all scalings together on their reduced tables; only where
    something else shares a piece with them do closed forms alternate over the tensors themselves.
    """
    kept = [g for g in groups if g.kept_by_others]
    scalings = [g for g in groups if isinstance(g, ScalingGroup)]
    others = [g for g in groups if g not in kept and not isinstance(g, ScalingGroup) and not g.isometric]
    # twice: one may hand its shift to the next
    for group in kept * min(len(kept), 2):
        group.canonicalize_(state)
    tolerance = _tolerance(groups, state)
    if not others:
        if scalings:
            scale_(scalings, state, balancing_logs(living_tables_(scalings, state), tolerance))
        return
    alone = len(others) == 1 and not scalings
    memory = Anderson()
    point = ScalingTables(scalings, state).zeros() if scalings else torch.zeros(0)
    for _ in range(1 if alone else _MOST_SWEEPS):
        moved = max(group.canonicalize_(state) for group in others)
        if not scalings:
            if moved < tolerance:
                break
            continue
        # The others follow from the scales alone, so the sweep is a map of the scales.
        change = balancing_logs(living_tables_(scalings, state), tolerance)
        if max(moved, float(change.abs().max())) < tolerance:
            break
        following = memory.next(point, point + change)
        scale_(scalings, state, following - point)
        point = following


def living_tables_(groups: Sequence[ScalingGroup], state: State) -> ScalingTables:
    """Tables of ``state`` once units that are zero on one side are zero in place, and those that this makes so."""
    while True:
        tables = ScalingTables(groups, state)
        logs = tables.split(tables.zeros())
        changed = [g.extinguish_(state, tables.norms(k, logs)) for k, g in enumerate(groups)]
        if not any(changed):
            return tables


def balancing_logs(tables: ScalingTables, tolerance: float) -> Tensor:
    """Logarithms of the scales, all units of all groups, that bring the tables' state to its canonical form."""
    memory = Anderson()
    point = tables.zeros()
    for _ in range(_MOST_SWEEPS):
        image = tables.sweep(point)
        if len(tables.groups) == 1 or float((image - point).abs().max()) < tolerance:
            return image
        point = memory.next(point, image)
    return point


def scale_(groups: Sequence[ScalingGroup], state: State, logs: Tensor) -> None:
    """Apply the scales ``exp(logs)`` in place."""
    shapes = [[atom.size for atom in group.units] for group in groups]
    parts = torch.split(logs, [math.prod(shape) for shape in shapes])
    for group, log, shape in zip(groups, parts, shapes, strict=True):
        group.scale_(state, log.reshape(shape))


def _tolerance(groups: Sequence[ContinuousGroup], state: State) -> float:
    wide = all(piece.view(state).dtype == torch.float64 for g in groups for piece in g.pieces[:1])
    return 1e-13 if wide else 3e-7
