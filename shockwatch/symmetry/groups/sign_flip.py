"""Z_2 for each unit behind an odd activation (tanh, sin)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.charges import ChargeSystem, Scope
from shockwatch.symmetry.groups.base import SymmetryGroup, frame, units_last
from shockwatch.symmetry.groups.general_linear import GeneralLinear
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece


@dataclass(eq=False)
class SignFlip(SymmetryGroup):
    """Both sides of a unit change sign together.

    Attributes:
        units: the axes whose indices flip independently.
        anchor: the piece whose sign is fixed; default: the smallest one.
    """

    kind: ClassVar[str] = "sign flip"
    can_stack: ClassVar[bool] = True

    units: tuple[Atom, ...] = ()
    anchor: Piece | None = None

    @property
    def dim(self) -> int:
        return 0

    @property
    def frame_order(self) -> int:
        return len(self._frame_piece().atoms)

    def _frame_piece(self) -> Piece:
        if self.anchor is not None:
            return self.anchor
        return min((p for p in self.pieces if p.trainable), key=lambda p: len(p.atoms))

    def _flip_(self, state: State, sign: Tensor) -> None:
        for piece in self.pieces:
            view = piece.view(state)
            units_last(piece, view, self.units).mul_(sign.to(view.device, view.dtype))

    def _overlap(self, piece: Piece, state: State, other: Tensor) -> Tensor:
        product = units_last(piece, piece.view(state).double() * other.double(), self.units)
        return (
            product.sum(tuple(range(product.dim() - len(self.units))))
            if product.dim() > len(self.units)
            else product
        )

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        coin = torch.rand([a.size for a in self.units], generator=generator, device=generator.device)
        self._flip_(state, torch.where(coin < 0.5, -1.0, 1.0))

    def fix_frame_(self, state: State) -> Tensor | None:
        piece = self._frame_piece()
        view = piece.view(state)
        self._flip_(state, torch.where(self._overlap(piece, state, frame(view.shape, view)) < 0, -1.0, 1.0))
        return None

    def align_(self, state: State, reference: State) -> Tensor | None:
        total = torch.zeros([a.size for a in self.units], dtype=torch.float64)
        for piece in self.pieces:
            if piece.trainable:
                total = total + self._overlap(piece, state, piece.view(reference)).cpu()
        self._flip_(state, torch.where(total < 0, -1.0, 1.0))
        return None

    def stacked(self, layer: Atom) -> SignFlip:
        return dataclasses.replace(self, units=(layer, *self.units))


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Every unit whose only way from writers to readers is odd, and not linear."""
    groups: list[SymmetryGroup] = []
    seen: set[frozenset[str]] = set()
    turning = {label for group in found if isinstance(group, GeneralLinear) for label in group.shared}
    for axis in system.analysis.axes():
        for solution in system.basis(axis, Scope.SIGN):
            if system.allows(axis, Scope.REAL, solution):
                continue
            pieces = tuple(
                p for p in system.analysis.pieces if round(float(solution.get(p.symbol.id, 0))) % 2
            )
            key = frozenset(p.label for p in pieces)
            if not pieces or key in seen or not all(p.trainable for p in pieces):
                continue
            seen.add(key)
            units = tuple(system.shared_axes(solution))
            count = math.prod(a.size for a in units)
            evidence = f"{count} units through {system.path(axis, solution)}"
            # signs are fixed before heads are turned: not on what turns
            anchor = min(pieces, key=lambda p: (len(p.atoms), p.label in turning))
            name = block_name(*([p] for p in pieces))
            groups.append(SignFlip(name, pieces, evidence, units=units, anchor=anchor))
    return groups
