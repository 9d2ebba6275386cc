"""R^k: rows of a table that the step never reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup
from shockwatch.symmetry.groups.translation import Translation
from shockwatch.symmetry.naming import block_name


@dataclass(eq=False)
class Unread(ContinuousGroup):
    """Any shift of rows that nothing reads: positions beyond the sequences of the step, a type no token has.

    Whatever a batch of this shape holds, they stay unread; a longer one may read them, so they are counted apart.
    Canonical form: zero.

    Attributes:
        rows: the rows of the piece, which is a whole table.
        excluded: dimensions of a row along which shifts have mean zero: constant ones are translations already.
    """

    kind: ClassVar[str] = "translation"
    kept_by_others: ClassVar[bool] = True
    shape_bound: ClassVar[bool] = True

    rows: tuple[int, ...] = ()
    excluded: tuple[int, ...] = ()

    @property
    def dim(self) -> int:
        sizes = [atom.size for atom in self.pieces[0].atoms]
        row = math.prod(sizes[1:])
        lost = row // math.prod(sizes[d] for d in self.excluded) if self.excluded else 0
        return len(self.rows) * (row - lost)

    def _take(self, state: State) -> Tensor:
        view = self.pieces[0].view(state)
        return self._centred(view.index_select(0, torch.tensor(self.rows, device=view.device)))

    def _centred(self, shift: Tensor) -> Tensor:
        return shift - shift.mean(self.excluded, keepdim=True) if self.excluded else shift

    def _shift_(self, state: State, shift: Tensor) -> None:
        view = self.pieces[0].view(state)
        rows = torch.tensor(self.rows, device=view.device)
        view.index_add_(0, rows, self._centred(shift).to(view.dtype))

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        like = self._take(state)
        draw = torch.randn(like.shape, generator=generator, dtype=torch.float64, device=generator.device)
        self._shift_(state, scale * draw.to(like.device))

    def canonicalize_(self, state: State) -> float:
        self._shift_(state, -self._take(state))
        return 0.0

    def imbalance(self, state: State) -> Tensor:
        return self._by_layer(self._take(state))

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        self._shift_(tangent, coefficients)

    def adjoint(self, state: State, tangent: State) -> Tensor:
        return self._take(tangent)

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        return self._centred(coefficients)


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Every table with rows that nothing reads."""
    groups: list[SymmetryGroup] = []
    for piece in system.analysis.pieces:
        rows = system.analysis.unread.get(piece.name, ())
        if not rows or piece.steps:
            continue
        along = [g.along for g in found if isinstance(g, Translation) and g.pieces[0] is piece]
        excluded = next((dims for dims in along if dims and 0 not in dims), ())
        evidence = f"{len(rows)} of {piece.atoms[0].size} rows that the step never reads"
        group = Unread(block_name([piece]), (piece,), evidence, rows=rows, excluded=excluded)
        if group.dim:
            groups.append(group)
    return groups
