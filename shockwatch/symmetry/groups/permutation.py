"""S_n: units, channels, heads and experts in another order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.groups.base import SymmetryGroup
from shockwatch.symmetry.groups.general_linear import GeneralLinear
from shockwatch.symmetry.groups.rotation import Rotation
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece


@dataclass(eq=False)
class Permutation(SymmetryGroup):
    """Reorder ``axis`` on every piece that carries it, one order for each index of ``batch``."""

    kind: ClassVar[str] = "permutation"

    axis: Atom | None = None
    batch: tuple[Atom, ...] = ()

    @property
    def units(self) -> Atom:
        """The axis that is reordered."""
        assert self.axis is not None
        return self.axis

    @property
    def dim(self) -> int:
        return 0

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        keys = torch.rand(
            *(atom.size for atom in self.batch), self.units.size, generator=generator, device=generator.device
        )
        self.permute_(state, keys.argsort(-1))

    def permute_(self, state: State, order: Tensor) -> None:
        """``unit k <- unit order[..., k]`` in place; ``order`` has shape ``(*batch, n)``."""
        for piece in self.pieces:
            view = piece.view(state)
            for position in piece.positions(self.units):
                self._gather_(piece, view, position, order)

    def _gather_(self, piece: Piece, view: Tensor, position: int, order: Tensor) -> None:
        if not self.batch:
            view.copy_(view.index_select(position, order.to(view.device)))
            return
        lead = [piece.positions(axis)[0] for axis in self.batch]
        rest = [d for d in range(view.dim()) if d not in (*lead, position)]
        moved = view.permute(*lead, position, *rest)
        index = order.to(view.device).reshape(*order.shape, *(1,) * len(rest)).expand(moved.shape)
        moved.copy_(moved.gather(len(lead), index))

    def entangled(self, other: Permutation) -> bool:
        """Whether it matters which of the two comes first."""
        return self.units in other.batch or other.units in self.batch

    @property
    def frame_order(self) -> int:
        return -1

    def fix_frame_(self, state: State) -> Tensor | None:
        """Order the units by norm, largest first: no other group moves the norms of a canonical state."""
        self.permute_(state, self.by_size(state))
        return None

    def by_size(self, state: State) -> Tensor:
        """The order of :meth:`fix_frame_`."""
        return torch.argsort(self.norms(state), dim=-1, descending=True, stable=True)

    def norms(self, state: State) -> Tensor:
        """Squared norm of each unit over all trainable pieces, ``(*batch, n)``."""
        total = sum(
            (
                self.unit_vectors(piece, state, position).double().square().sum(-1)
                for piece in self.pieces
                if piece.trainable
                for position in piece.positions(self.units)
            ),
            torch.zeros((), dtype=torch.float64),
        )
        return total.reshape(*(atom.size for atom in self.batch), self.units.size)

    def unit_vectors(self, piece: Piece, state: State, position: int) -> Tensor:
        """The piece as ``(*batch, n, rest)``: one row for each unit."""
        view = piece.view(state)
        lead: Sequence[int] = [piece.positions(axis)[0] for axis in self.batch]
        rest = [d for d in range(view.dim()) if d not in (*lead, position)]
        moved = view.permute(*lead, position, *rest)
        return moved.reshape(math.prod(a.size for a in self.batch), self.units.size, -1)


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Every axis whose indices mean nothing outside; linear groups and rotations contain their own permutations."""
    linear = {group.axis for group in found if isinstance(group, GeneralLinear)}
    linear |= {group.stream.axis for group in found if isinstance(group, Rotation) and group.stream}
    groups: list[SymmetryGroup] = []
    for axis in system.analysis.free_axes():
        pieces = tuple(p for p in system.analysis.pieces if p.positions(axis))
        if axis in linear or system.touches_fixed(axis) or not any(p.trainable for p in pieces):
            continue
        batch = tuple(
            atom for atom in system.axes_beside(axis) if all(len(p.positions(atom)) == 1 for p in pieces)
        )
        name = block_name([p for p in pieces if p.trainable])
        evidence = f"{axis.size} interchangeable indices"
        groups.append(Permutation(name, pieces, evidence, axis=axis, batch=batch))
    return groups
