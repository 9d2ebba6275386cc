"""The groups of a quotient as they act: on stacks of equal layers, in sets that share pieces, in order of alignment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from shockwatch.norms import square_norm
from shockwatch.snapshot import State
from shockwatch.symmetry.balancing import balance_, components
from shockwatch.symmetry.gauge import Gauge
from shockwatch.symmetry.groups import ContinuousGroup, GeneralLinear, Permutation, Rotation, SymmetryGroup
from shockwatch.symmetry.groups.scaling import FoldedGain
from shockwatch.symmetry.packing import Layout, Packed
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.stacking import Stacking

_REFINEMENTS = 12  # most rounds of coordinate descent where a stream and what reads it turn together
_CHAINED = 3  # rounds where linear groups share weights
_TIGHT, _LOOSE = 1e-12, 5e-7  # ends of it in double and in single precision, relative to the norm
_ALIGNED = 1e-3  # or relative to the distance, in single precision: squared it is what a distance is wrong by
_NEAR = 0.1  # share of the norm within which a state is taken to have come by training


class Acting:
    """``groups`` on states of one model.

    Args:
        names: trainable parameters.
        state: any state; only names and shapes count.
        stack: whether equal layers are to act as one.
    """

    def __init__(
        self,
        groups: Sequence[SymmetryGroup],
        names: Sequence[str],
        state: Mapping[str, Tensor],
        *,
        stack: bool = True,
    ) -> None:
        moving = [g for g in groups if not isinstance(g, Permutation)]
        shapes = {name: tuple(state[name].shape) for g in moving for name in g.parameters if name in state}
        stacking = Stacking(moving, shapes if stack else {})
        touched = dict.fromkeys(name for group in groups for name in group.parameters)
        self.layout = Layout(names, [name for name in touched if name not in set(names)], stacking.stacks)
        self._members = stacking.groups
        continuous = [g for g, _ in stacking.groups if isinstance(g, ContinuousGroup)]
        self.components = components(continuous)
        # Streams first, then signs, then heads: each is found from rows whose columns are already right.
        framed = [g for g, _ in stacking.groups if g.has_frame]
        self._framed = sorted(framed, key=lambda g: isinstance(g, GeneralLinear) - isinstance(g, Rotation))
        self._settled: list[list[Piece]] = []
        for k, group in enumerate(self._framed):
            later = {label for other in self._framed[k + 1 :] for label in other.shared}
            self._settled.append([p for p in group.pieces if p.label not in later])
        self._rotations = [g for g, _ in stacking.groups if isinstance(g, Rotation)]
        linear = [g.shared for g in framed if isinstance(g, GeneralLinear)]
        chained = len(linear) > 1 and len(frozenset().union(*linear)) < sum(map(len, linear))
        self._rounds = _REFINEMENTS if self._rotations else _CHAINED if chained else 0

    def balance_(self, state: Packed, gauge: Gauge | None = None) -> None:
        """Move to the minimum-norm point of the orbit in place, starting from and updating ``gauge``."""
        gauge = Gauge() if gauge is None else gauge
        for groups in self.components:
            balance_(groups, state.stacks, gauge)

    def begin_(self, point: Packed, gauge: Gauge) -> None:
        """Turn the balanced point of the first state of a run to a fixed random frame; ``gauge`` knows the turns only.

        The next state is balanced from nothing, then: that takes little longer.
        """
        gauge.forget()
        for group in sorted(self._framed, key=lambda g: g.frame_order):
            gauge.turn(group, group.fix_frame_(point.stacks))
        gauge.settled = True

    def follow(self, state: Mapping[str, Tensor], reference: Packed, gauge: Gauge) -> Packed:
        """The balanced point of ``state`` turned to ``reference``, starting from and updating ``gauge``.

        Where that ends far from the reference, the state may not have come there by training: it starts anew, too, and
        the nearer point is kept.
        """
        point, known = self.layout.pack(state), None
        if not gauge.settled:
            gauge.forget()
        self.balance_(point, gauge)
        balanced, start = point, gauge.copy()
        if gauge.settled and self._framed:
            point = self.layout.pack(balanced)
            self._resume_(point, reference, gauge)
            known = point, _distance(point, reference)
        if not self._framed or (known and known[1] <= _NEAR * _distance(reference, None)):
            gauge.settled = True
            return point
        return self._anew(balanced, reference, gauge, start, known)

    def turned(self, state: Packed, reference: Packed, gauge: Gauge) -> Packed:
        """The balanced ``state`` turned to ``reference``, starting from and updating ``gauge``, which holds turns only.

        Where what is remembered takes it farther away, it starts anew, too.
        """
        known = None
        if not gauge.settled and _distance(state, reference) == 0.0:
            gauge.settled = True
            return self.layout.pack(state)
        if gauge.settled:
            point = self.layout.pack(state)
            for group in self._framed:
                if isinstance(group, GeneralLinear) and group in gauge.turns:
                    group.apply_(point.stacks, gauge.turns[group])
            self._resume_(point, reference, gauge)
            known = point, _distance(point, reference)
            if known[1] <= _distance(state, reference):
                return point
        return self._anew(state, reference, gauge, Gauge(), known)

    def _anew(
        self,
        balanced: Packed,
        reference: Packed,
        gauge: Gauge,
        start: Gauge,
        known: tuple[Packed, float] | None,
    ) -> Packed:
        """The nearest of a ``known`` point, to which ``gauge`` belongs, and those that alignment finds from its starts.

        There are two starts where streams turn, as they may differ.

        Args:
            start: belongs to ``balanced``.
        """
        best, least = (None, math.inf) if known is None else known
        for turn_ in (self.align_, self.turn_) if self._rotations else (self.align_,):
            point, tried = self.layout.pack(balanced), start.copy()
            turn_(point, reference, tried)
            distance = _distance(point, reference)
            if best is None or distance < least:
                best, least = point, distance
                gauge.logs, gauge.turns, gauge.settled = tried.logs, tried.turns, True
        assert best is not None
        return best

    def _resume_(self, state: Packed, reference: Packed, gauge: Gauge) -> None:
        """Turn streams as is remembered, and everything to ``reference`` from there."""
        for rotation in self._rotations:
            if rotation in gauge.turns:
                rotation.turn_(state.stacks, gauge.turns[rotation])
        for group in self._framed[len(self._rotations) :]:
            gauge.turn(group, group.align_(state.stacks, reference.stacks))
        self.refine_(state.stacks, reference.stacks, gauge)

    def align_(self, state: Packed, reference: Packed, gauge: Gauge | None = None) -> None:
        """Turn a balanced state in place to the point nearest to ``reference``; ``gauge`` takes note."""
        self.pair_(state.stacks, reference.stacks, gauge)
        self.refine_(state.stacks, reference.stacks, gauge)

    def pair_(self, state: State, reference: State, gauge: Gauge | None = None) -> None:
        """Every group once; a linear one in the pieces that no later one turns, where there are any."""
        gauge = Gauge() if gauge is None else gauge
        for group, settled in zip(self._framed, self._settled, strict=True):
            if isinstance(group, GeneralLinear) and settled:
                gauge.turn(group, group.turn_(state, reference, settled))
            else:
                gauge.turn(group, group.align_(state, reference))

    def turn_(self, state: Packed, reference: Packed, gauge: Gauge | None = None) -> None:
        """Turn a balanced state in place towards a reference that may be far: a function of its orbit.

        The signs of gains first, as nothing turns those; then streams, in all that nothing else turns once units are in
        order; the others as in :meth:`pair_`; and from there :meth:`refine_`. ``gauge`` takes note.
        """
        gauge = Gauge() if gauge is None else gauge
        here, there = state.stacks, reference.stacks
        gains = [g for g in self._framed if isinstance(g, FoldedGain)]
        others = [g for g in self._framed if not isinstance(g, (FoldedGain, Rotation))]
        turned = {label for group in others for label in group.shared}
        for gain in gains:
            gauge.turn(gain, gain.align_(here, there))
        for rotation in self._rotations:
            gauge.turn(rotation, rotation.turn_towards_(here, there, rotation.shared - turned))
        for group, settled in zip(self._framed, self._settled, strict=True):
            if isinstance(group, GeneralLinear) and settled:
                gauge.turn(group, group.turn_(here, there, settled))
            elif group in others:
                gauge.turn(group, group.align_(here, there))
        self.refine_(here, there, gauge)

    def refine_(self, state: State, reference: State, gauge: Gauge | None = None) -> None:
        """A stream and what reads it, or a chain, turn together: coordinate descent once units are in order."""
        gauge = Gauge() if gauge is None else gauge
        for _ in range(self._rounds):
            turned = not self._rotations
            for rotation in self._rotations:
                wide = rotation.pieces[0].view(state).dtype == torch.float64
                enough = _TIGHT if wide else max(_LOOSE, _ALIGNED * _apart(rotation, state, reference))
                matrix = rotation.refine_(state, reference, enough)
                gauge.turn(rotation, matrix)
                turned |= matrix is not None
            if not turned:
                break
            for group in self._framed[len(self._rotations) :]:
                gauge.turn(group, group.align_(state, reference))

    def read(
        self, numbers: Callable[[SymmetryGroup], Mapping[str, Tensor]]
    ) -> list[tuple[SymmetryGroup, dict[str, float]]]:
        """What ``numbers`` gives of each group, by the groups that the stacked ones stand for."""
        found = [(members, dict(numbers(group))) for group, members in self._members]
        flat = [value.double().reshape(-1).cpu() for _, values in found for value in values.values()]
        rest = torch.cat(flat).tolist() if flat else []
        result: list[tuple[SymmetryGroup, dict[str, float]]] = []
        for members, values in found:
            rows: list[dict[str, float]] = [{} for _ in members]
            for key in values:
                for row in rows:
                    row[key] = rest.pop(0)
            result += zip(members, rows, strict=True)
        return result


def _apart(rotation: Rotation, state: State, reference: State) -> float:
    """Distance of what turns, relative to its norm."""
    squares = [(square_norm(state[n] - reference[n]), square_norm(reference[n])) for n in rotation.parameters]
    moves, sizes = (sum(column) for column in zip(*squares, strict=True))
    return math.sqrt(moves / sizes) if sizes else 0.0


def _distance(state: Packed, other: Packed | None) -> float:
    names = [name for members in state.layout.own.values() for name in members]
    moves = (state[n] if other is None else state[n] - other[n] for n in names)
    move = state.flat if other is None else state.minus(other)
    return math.sqrt(square_norm(move) if move is not None else sum(square_norm(m) for m in moves))
