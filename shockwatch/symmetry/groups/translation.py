"""R^k: directions that a softmax or a norm removes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom, resolve
from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.records import Law
from shockwatch.symmetry.shifts import ShiftAnalysis, removes_shift
from shockwatch.symmetry.transport import tied_shifts


@dataclass(eq=False)
class Translation(ContinuousGroup):
    """``piece -> piece + c``, with ``c`` constant along ``along``: the logits' shift before a softmax.

    The first piece is the parameter; further pieces are running statistics that follow it.
    Canonical form: zero mean along those dimensions.

    Attributes:
        along: dimensions of the first piece's view along which the shift is constant; empty: any shift at all.
    """

    kind: ClassVar[str] = "translation"
    kept_by_others: ClassVar[bool] = True
    can_stack: ClassVar[bool] = True

    along: tuple[int, ...] = ()

    def _free_shape(self) -> tuple[int, ...]:
        return tuple(a.size for d, a in enumerate(self.pieces[0].atoms) if d not in self.along)

    @property
    def dim(self) -> int:
        return math.prod(self._free_shape())

    def _spread(self, shift: Tensor, like: Tensor) -> Tensor:
        for d in sorted(self.along):
            shift = shift.unsqueeze(d)
        return shift.to(like.dtype).expand_as(like)

    def _shift_(self, state: State, shift: Tensor) -> None:
        for piece in self.pieces:
            if piece.name in state:
                view = piece.view(state)
                view.add_(self._spread(shift, view))

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        view = self.pieces[0].view(state)
        draw = torch.randn(
            self._free_shape(), generator=generator, dtype=torch.float64, device=generator.device
        )
        self._shift_(state, scale * draw.to(view.device))

    def _mean(self, view: Tensor) -> Tensor:
        return view.mean(self.along) if self.along else view.clone()

    def canonicalize_(self, state: State) -> float:
        self._shift_(state, -self._mean(self.pieces[0].view(state)))
        return 0.0

    def imbalance(self, state: State) -> Tensor:
        return self._by_layer(self._mean(self.pieces[0].view(state)))

    def stacked(self, layer: Atom) -> Translation:
        return dataclasses.replace(self, along=tuple(d + 1 for d in self.along))

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        view = self.pieces[0].view(tangent)
        view.add_(self._spread(coefficients, view))

    def adjoint(self, state: State, tangent: State) -> Tensor:
        view = self.pieces[0].view(tangent)
        return view.sum(self.along) if self.along else view.clone()

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        view = self.pieces[0].view(state)
        return coefficients / math.prod(view.shape[d] for d in self.along)


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Shifts that a softmax or a centring norm removes, traced back to the weights and biases that write them."""
    groups: list[SymmetryGroup] = []
    shifts = ShiftAnalysis(system)
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for record in system.analysis.records:
        if not removes_shift(record):
            continue
        axes = frozenset(atom.root() for atom in resolve(record.atoms))
        for piece, along_axes in shifts.writers(record.inputs[0], axes):
            along = tuple(d for axis in along_axes for d in piece.positions(axis))
            if (piece.label, along) in seen:
                continue
            seen.add((piece.label, along))
            followers = _followers(system, piece)
            evidence = f"removed by {record.operator}"
            groups.append(Translation(block_name([piece]), (piece, *followers), evidence, along=along))
    moved = {g.pieces[0].symbol.id for g in groups}
    for piece in tied_shifts(system):
        if piece.symbol.id not in moved:
            along = tuple(range(len(piece.atoms)))
            groups.append(Translation(block_name([piece]), (piece,), "removed by every reader", along=along))
    return groups


def _followers(system: ChargeSystem, bias: Piece) -> list[Piece]:
    """The running mean that a bias shifts."""
    means = [
        record
        for record in system.analysis.records
        if record.operator == "running statistics" and record.law is Law.ADD
    ]
    shifted = {
        record.output.id
        for record in system.analysis.records
        if record.law is Law.ADD and bias.symbol.id in {s.id for s in record.inputs}
    }
    followers = []
    for record in system.analysis.records:
        if (
            record.law is Law.SELECT
            and record.operator == "running statistics"
            and record.inputs[0].id in shifted
        ):
            tied = [m.inputs[1].id for m in means if m.inputs[0].id == record.output.id]
            followers += [p for p in system.analysis.pieces if p.symbol.id in tied]
    return followers
