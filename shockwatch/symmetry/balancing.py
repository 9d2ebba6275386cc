"""The minimum-norm point of an orbit: closed forms, coupled where groups share weights (theory.md 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
_MOST_COUPLING = 0.999  # powers stay below 2
_NEAR = 0.3  # below this change of the weights
_CLOSE = 0.05  # to the identity: the series of the logarithm takes fewer than 13 products
_SERIES = 1e-16
_NARROW = 3e-7  # tolerance in single precision
_SETTLED, _SHARE = 3e-6, 1e-3  # or this, or this share of the first move, whichever is less
_INNER = 1e-2  # scales are brought to this share of what the others last moved
_TINY = torch.finfo(torch.float64).tiny


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
    if start is not None:
        scale_(scalings, state, start)
    if len(others) == 1 and not scalings:
        return _passes_(others[0], state, tolerance, gauge)
    return _sweeps_(others, scalings, state, tolerance, gauge, start)


def _passes_(group: ContinuousGroup, state: State, tolerance: float, gauge: Gauge) -> int:
    """One group alone: a further pass removes what an ill-conditioned first one leaves."""
    progress = _Progress(tolerance)
    while progress.sweeps < _MOST_PASSES:
        moved, matrix = _step_(group, state)
        gauge.turn(group, matrix)
        if progress.done(moved):
            break
    return 1


def _sweeps_(
    groups: Sequence[ContinuousGroup],
    scalings: Sequence[ScalingGroup],
    state: State,
    tolerance: float,
    gauge: Gauge,
    start: Tensor | None,
) -> int:
    """Closed forms one after the other, over-relaxed as their coupling says (Young 1954).

    Once they move little, the logarithms of what was applied behave as a vector, to be accelerated as one.
    """
    device = groups[0].pieces[0].view(state).device
    zeros = torch.zeros(0, dtype=torch.float64, device=device)
    scales = zeros if not scalings else ScalingTables(scalings, state).zeros() if start is None else start
    memory, progress, power, most = Anderson(), _Progress(tolerance), _over_relaxation(groups), 0
    wide = tolerance < _NARROW
    turned: Tensor | None = None
    for _ in range(_MOST_SWEEPS):
        steps = {group: _step_(group, state, power) for group in groups}
        moved = max(move for move, _ in steps.values())
        shift = zeros
        if scalings:
            rough = tolerance if wide else max(tolerance, _INNER * moved)
            shift, inner = balancing_logs(living_tables_(scalings, state), rough)
            moved, most = max(moved, float(shift.abs().max())), max(most, inner)
        turns = {group: matrix for group, (_, matrix) in steps.items() if matrix is not None}
        for group, matrix in turns.items():
            gauge.turn(group, matrix)
        if progress.done(moved):
            break
        turn = torch.cat([zeros, *(_logarithms(matrix) for matrix in turns.values())])
        turned = torch.zeros_like(turn) if turned is None else turned
        image = torch.cat([scales + shift, turned + turn])
        following = memory.next(torch.cat([scales, turned]), image) if moved < _NEAR else image
        after = following[: len(scales)]
        if scalings:
            scale_(scalings, state, after - scales)
        if moved < _NEAR:
            _turn_(turns, state, (following - image)[len(scales) :], gauge)
        scales, turned = after, following[len(scales) :]
    if scalings:
        _remember(gauge, scalings, scales)
    return max(most, progress.sweeps)


def _step_(group: ContinuousGroup, state: State, power: float = 1.0) -> tuple[float, Tensor | None]:
    if isinstance(group, GeneralLinear):
        return group.relax_(state, power)
    return group.canonicalize_(state), None


def _logarithms(matrices: Tensor) -> Tensor:
    """Logarithms of positive definite matrices, as one vector."""
    small = matrices - torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    size = float(small.norm(dim=(-2, -1)).max())
    if size < _CLOSE:
        total, power, order = small.clone(), small, 1
        while size**order > _SERIES * order:
            power, order = -power @ small, order + 1
            total += power / order
        return total.reshape(-1)
    values, vectors = torch.linalg.eigh((matrices + matrices.mT) / 2)
    result: Tensor = ((vectors * values.clamp_min(_TINY).log()[:, None, :]) @ vectors.mT).reshape(-1)
    return result


def _turn_(turns: Mapping[ContinuousGroup, Tensor], state: State, logs: Tensor, gauge: Gauge) -> None:
    """Apply the matrices with these logarithms."""
    parts = torch.split(logs, [matrix.numel() for matrix in turns.values()])
    for (group, matrix), log in zip(turns.items(), parts, strict=True):
        step = torch.matrix_exp(log.reshape(matrix.shape))
        if isinstance(group, GeneralLinear):
            group.apply_(state, step)
        gauge.turn(group, step)


def _over_relaxation(groups: Sequence[ContinuousGroup]) -> float:
    """Young's power for linear groups that share weights, from the norm as a function of one factor for each group.

    Along one group the norm is symmetric about its minimum, so that powers below 2 never raise it. Where all is
    balanced, shared weights are about as large as one another.
    """
    linear = [group for group in groups if isinstance(group, GeneralLinear)]
    rows: dict[str, list[float]] = {}
    for k, group in enumerate(linear):
        for piece, charge in zip(group.pieces, group.charges, strict=True):
            rows.setdefault(piece.label, [0.0] * len(linear))[k] = charge
    if not rows:
        return 1.0
    charges = torch.tensor(list(rows.values()), dtype=torch.float64)
    hessian = charges.T @ charges
    scale = hessian.diagonal().rsqrt()
    jacobi = torch.eye(len(linear), dtype=torch.float64) - scale[:, None] * hessian * scale
    coupling = min(float(torch.linalg.eigvalsh(jacobi).abs().max()), _MOST_COUPLING)
    return 2.0 / (1.0 + math.sqrt(1.0 - coupling**2))


def _remember(gauge: Gauge, groups: Sequence[ScalingGroup], logs: Tensor) -> None:
    parts = torch.split(logs, [math.prod(atom.size for atom in group.units) for group in groups])
    gauge.logs.update(zip(groups, parts, strict=True))


class _Progress:
    """When to stop: at the tolerance, or where rounding keeps moving ill-conditioned weights by a little more.

    In single precision the tolerance is a share of the first move, within bounds.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance, self._least, self._since = tolerance, math.inf, 0
        self.sweeps = 0

    def done(self, moved: float) -> bool:
        if not self.sweeps and self._tolerance >= _NARROW:
            self._tolerance = max(self._tolerance, min(_SETTLED, _SHARE * moved))
        self.sweeps += 1
        self._least, self._since = (moved, 0) if moved < self._least else (self._least, self._since + 1)
        stalled = self._least < _ROUNDING * self._tolerance and self._since >= _PATIENCE
        return moved < self._tolerance or stalled


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
        if len(tables.groups) == 1:
            break
        moved = float((image - point).abs().max())
        if progress.done(moved):
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
    return 1e-13 if wide else _NARROW
