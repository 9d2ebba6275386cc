"""Factors for units whose tensors lie on several ranks, found from sums that each rank takes over its own tensors.

A scaling sees a tensor only through the squared norms of its units (:mod:`shockwatch.symmetry.tables`), a sign through
inner products with the reference. Both are vectors: the tensors stay where they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from shockwatch.sharding.channel import Channel
from shockwatch.snapshot import State
from shockwatch.symmetry.anderson import Anderson
from shockwatch.symmetry.gauge import Gauge
from shockwatch.symmetry.groups import ScalingGroup, SignFlip, SymmetryGroup
from shockwatch.symmetry.groups.base import units_last
from shockwatch.symmetry.groups.scaling import FoldedGain
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.tables import ScalingTables, touched_pieces

_MOST_SWEEPS = 1000
_PATIENCE = 4


class Across:
    """The groups that reach over several ranks, as they act on the tensors of this one.

    Args:
        groups: the same on every rank, in the same order.
        own: names of the trainable tensors of this rank.
    """

    def __init__(self, groups: Sequence[SymmetryGroup], own: Collection[str], channel: Channel) -> None:
        self._channel = channel
        self._whole = [g for g in groups if isinstance(g, ScalingGroup)]
        self._signs = [g for g in groups if isinstance(g, SignFlip)]
        self._part = [_restricted(g, own) for g in self._whole]
        self._part_of_signs = [dataclasses.replace(g, pieces=_own(g.pieces, own)) for g in self._signs]
        # where the norms that tables give of a group stand among its members
        self._places: list[list[int]] = []
        touched = touched_pieces(self._part)
        for index, group in enumerate(self._whole):
            known = {(p.name, p.steps): k for k, (p, _) in enumerate(group.members())}
            seen = [t.piece for t in touched for m in t.members if m.group == index]
            self._places.append([known[piece.name, piece.steps] for piece in seen])
        self._shapes = [tuple(atom.size for atom in g.units) for g in self._whole]

    @property
    def scales(self) -> bool:
        """Whether there is anything to balance."""
        return bool(self._whole)

    def zeros(self) -> Tensor:
        """One zero for each unit."""
        return torch.zeros(sum(math.prod(shape) for shape in self._shapes), dtype=torch.float64)

    def remembered(self, gauge: Gauge) -> Tensor:
        """The scales of the last state, to start from; zeros where there was none."""
        known = [gauge.logs[group].reshape(-1) for group in self._whole if group in gauge.logs]
        return torch.cat(known) if known else self.zeros()

    def remember(self, gauge: Gauge, logs: Tensor) -> None:
        """Keep the scales that were applied."""
        gauge.logs.update(zip(self._whole, self._split(logs), strict=True))

    def scale_(self, state: State, logs: Tensor) -> None:
        """Apply the scales ``exp(logs)`` to the tensors of this rank, in place."""
        for group, log in zip(self._part, self._split(logs), strict=True):
            group.scale_(state, log)

    def balancing_logs(self, state: State, tolerance: float) -> Tensor:
        """Logarithms of the scales that bring the state of all ranks to its canonical form.

        Units that are zero on one side become zero in place. Rank zero says when it is done.
        """
        tables = self._living_(state)
        memory, point = Anderson(), self.zeros()
        least, since = math.inf, 0
        for _ in range(_MOST_SWEEPS):
            logs = self._split(point)
            for index, group in enumerate(self._whole):
                logs[index] = logs[index] + group.balancing_log(self._norms(tables, index, logs))
            image = torch.cat([log.reshape(-1) for log in logs])
            moved = float((image - point).abs().max())
            least, since = (moved, 0) if moved < least else (least, since + 1)
            done = (
                len(self._whole) == 1 or moved < tolerance or (since >= _PATIENCE and least < 1e4 * tolerance)
            )
            following = image if done else memory.next(point, image)
            # machines of different makes round differently
            answer = self._channel.first(torch.cat([following, torch.tensor([float(done)])]))
            point = answer[:-1]
            if bool(answer[-1]):
                break
        return point

    def turn_(self, state: State, reference: State) -> None:
        """Signs of units to the nearest point of ``reference``, in place."""
        groups: list[tuple[ScalingGroup | SignFlip, Tensor]] = []
        for scaling in self._part:
            if scaling.has_frame:
                groups.append((scaling, _overlap(scaling, _turning(scaling), state, reference)))
        for sign in self._part_of_signs:
            groups.append((sign, _overlap(sign, [p for p in sign.pieces if p.trainable], state, reference)))
        if not groups:
            return
        total = self._channel.sum(torch.cat([overlap.reshape(-1) for _, overlap in groups]))
        parts = torch.split(total, [overlap.numel() for _, overlap in groups])
        for (group, overlap), part in zip(groups, parts, strict=True):
            flip = torch.where(part.reshape(overlap.shape) < 0, -1.0, 1.0)
            if isinstance(group, ScalingGroup):
                group.scale_(state, torch.zeros_like(overlap), flip)
            else:
                for piece in group.pieces:
                    view = piece.view(state)
                    units_last(piece, view, group.units).mul_(flip.to(view.dtype))

    def imbalance(self, state: State) -> dict[str, float]:
        """How far each group stands from its canonical slice, by name."""
        tables = ScalingTables(self._part, state)
        logs = self._split(self.zeros())
        values = {}
        for index, group in enumerate(self._whole):
            log = group.balancing_log(self._norms(tables, index, logs))
            values[group.name] = float(log.square().mean().sqrt())
        return values

    def _split(self, vector: Tensor) -> list[Tensor]:
        parts = torch.split(vector, [math.prod(shape) for shape in self._shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _norms(self, tables: ScalingTables, index: int, logs: Sequence[Tensor]) -> list[tuple[float, Tensor]]:
        """Charges and squared norms of all members of one group, on whatever rank."""
        members = list(self._whole[index].members())
        rows = torch.zeros(len(members), *self._shapes[index], dtype=torch.float64)
        for place, (_, norm) in zip(self._places[index], tables.norms(index, logs), strict=True):
            rows[place] = norm
        total = self._channel.sum(rows)
        return [(charge, row) for (_, charge), row in zip(members, total, strict=True)]

    def _living_(self, state: State) -> ScalingTables:
        while True:
            tables = ScalingTables(self._part, state)
            logs = self._split(self.zeros())
            found = [self._norms(tables, k, logs) for k in range(len(self._whole))]
            # on every rank, whether it has something of the group or not
            changed = [g.extinguish_(state, norms) for g, norms in zip(self._part, found, strict=True)]
            if not any(changed):
                return tables


def _own(pieces: Sequence[Piece], own: Collection[str]) -> tuple[Piece, ...]:
    return tuple(p for p in pieces if p.name in own or not p.trainable)


def _restricted(group: ScalingGroup, own: Collection[str]) -> ScalingGroup:
    pairs = [
        (p, q) for p, q in zip(group.pieces, group.charges, strict=True) if p.name in own or not p.trainable
    ]
    return dataclasses.replace(group, pieces=tuple(p for p, _ in pairs), charges=tuple(q for _, q in pairs))


def _turning(group: ScalingGroup) -> list[Piece]:
    """The pieces of this rank that tell the sign of a unit."""
    if isinstance(group, FoldedGain):
        return [piece for piece, _ in group.members() if piece is group.gain]
    return [piece for piece, charge in group.members() if round(charge) % 2]


def _overlap(
    group: ScalingGroup | SignFlip, pieces: Sequence[Piece], state: State, reference: State
) -> Tensor:
    total = torch.zeros([atom.size for atom in group.units], dtype=torch.float64)
    for piece in pieces:
        product = units_last(piece, piece.view(state).double() * piece.view(reference).double(), group.units)
        rest = tuple(range(product.dim() - len(group.units)))
        total = total + (product.sum(rest) if rest else product)
    return total
