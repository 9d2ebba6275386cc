"""R^k: directions that a softmax or a norm removes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom, resolve
from shockwatch.symmetry.charges import ChargeSystem, carries
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.records import Law, Record
from shockwatch.symmetry.values import Symbol


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

    def imbalance(self, state: State) -> float:
        return float(self._mean(self.pieces[0].view(state)).double().square().mean().sqrt())

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        view = self.pieces[0].view(tangent)
        view.add_(self._spread(coefficients, view))

    def adjoint(self, state: State, tangent: State) -> Tensor:
        view = self.pieces[0].view(tangent)
        return view.sum(self.along) if self.along else view.clone()

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        view = self.pieces[0].view(state)
        return coefficients / math.prod(view.shape[d] for d in self.along)


class _Shifts:
    """Which tensors may be shifted by something constant along some axes without a change downstream."""

    def __init__(self, system: ChargeSystem, axes: Sequence[Atom]) -> None:
        self._axes = frozenset(axes)
        self._uses: dict[int, list[Record]] = {}
        self._makers: dict[int, Record] = {}
        self._known: dict[int, bool] = {}
        for record in system.analysis.records:
            if record.operator == "running statistics":
                continue
            for symbol in record.inputs:
                self._uses.setdefault(symbol.id, []).append(record)
            self._makers.setdefault(record.output.id, record)
        self._pieces = {p.symbol.id: p for p in system.analysis.pieces if p.trainable}

    def _count(self, symbol: Symbol) -> int:
        """2 if the tensor carries all axes once, 0 if none, 1 for anything between."""
        counts = {carries(symbol, axis) for axis in self._axes}
        return 2 if counts == {1} else 0 if counts == {0} else 1

    def unseen(self, symbol: Symbol) -> bool:
        """Whether nothing downstream of ``symbol`` sees the shift."""
        if symbol.id not in self._known:
            uses = self._uses.get(symbol.id, [])
            self._known[symbol.id] = bool(uses) and all(self._absorbs(record, symbol) for record in uses)
        return self._known[symbol.id]

    def _absorbs(self, record: Record, symbol: Symbol) -> bool:
        atoms = {atom.root() for atom in resolve(record.atoms)}
        if record.law is Law.SOFTMAX or (record.law is Law.NORMALIZE and record.centred):
            return atoms == self._axes and self._count(record.inputs[0]) == 2
        return self._passes(record, symbol) and self.unseen(record.output)

    def _passes(self, record: Record, symbol: Symbol) -> bool:
        """Whether a constant shift of ``symbol`` leaves a constant shift of the output."""
        if self._count(record.output) != 2:
            return False
        if record.law in (Law.ADD, Law.OFFSET, Law.SELECT):
            return True
        if record.law in (Law.MULTIPLY, Law.CONTRACT) and len(record.inputs) == 2:
            first, second = record.inputs
            other = second if first.id == symbol.id else first
            atoms = {atom.root() for atom in resolve(record.atoms)}
            return first.id != second.id and self._count(other) == 0 and not atoms & self._axes
        return False

    def writers(self, symbol: Symbol) -> Iterator[tuple[Piece, bool]]:
        """Pieces whose shift reaches ``symbol``, and whether it is running statistics' direct neighbour."""
        if not self.unseen(symbol) or self._count(symbol) == 1:
            return
        if symbol.id in self._pieces:
            yield self._pieces[symbol.id], self._count(symbol) == 2
            return
        maker = self._makers.get(symbol.id)
        if maker is not None:
            for source in maker.inputs:
                if self._passes(maker, source):
                    yield from self.writers(source)


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Shifts that a softmax or a centring norm removes, traced back to the weights and biases that write them."""
    groups: list[SymmetryGroup] = []
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for record in system.analysis.records:
        if record.law is not Law.SOFTMAX and not (record.law is Law.NORMALIZE and record.centred):
            continue
        axes = list(dict.fromkeys(atom.root() for atom in resolve(record.atoms)))
        shifts = _Shifts(system, axes)
        for piece, carried in shifts.writers(record.inputs[0]):
            along = tuple(d for axis in axes for d in piece.positions(axis)) if carried else ()
            if (piece.label, along) in seen:
                continue
            seen.add((piece.label, along))
            evidence = f"removed by {record.operator}"
            groups.append(
                Translation(block_name([piece]), (piece, *_followers(system, piece)), evidence, along=along)
            )
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
