"""All scaling groups of a state at once: squared weights summed to the axes along which units scale.

Scalings see a piece of a parameter only through these tables (for two hidden layers the matrix ``W^2``), so that
balancing them and inverting their Gram matrix never goes back to full tensors.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_matrix
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.groups.scaling import ScalingGroup
from shockwatch.symmetry.pieces import Piece

_MOST_ENTRIES = 4_000_000  # of the Gram matrix: above, its factor would be as large as the model


@dataclass(frozen=True)
class _Member:
    """One group on one piece: its number, its charge there, and the dimensions of the view it runs over."""

    group: int
    charge: float
    dims: tuple[int, ...]

    @property
    def letters(self) -> str:
        return "".join(string.ascii_letters[d] for d in self.dims)


class TouchedPiece:
    """A piece that scaling groups move, with all of them."""

    def __init__(self, piece: Piece, members: Sequence[_Member]) -> None:
        self.piece = piece
        self.members = tuple(members)
        self._dims = tuple(sorted({d for m in members for d in m.dims}))
        self.letters = "".join(string.ascii_letters[d] for d in self._dims)

    def reduce(self, product: Tensor) -> Tensor:
        """Sum what has the shape of the view over all but the units' dimensions, ascending."""
        rest = [d for d in range(product.dim()) if d not in self._dims]
        return product.sum(rest) if rest else product

    def marginal(self, table: Tensor, member: _Member) -> Tensor:
        """Sum a table to the units of one group."""
        return _contract(self.letters, table, [], member.letters)

    def embed(self, member: _Member, values: Tensor, dim: int) -> Tensor:
        """Values of one group's units, ready to broadcast over a view with ``dim`` dimensions."""
        order = sorted(range(len(member.dims)), key=lambda k: member.dims[k])
        shape = [1] * dim
        for k in order:
            shape[member.dims[k]] = values.shape[k]
        return values.permute(order).reshape(shape)


def _contract(letters: str, table: Tensor, factors: Sequence[tuple[str, Tensor]], out: str) -> Tensor:
    if not factors and letters == out:
        return table
    spec = ",".join([letters, *(name for name, _ in factors)])
    result: Tensor = torch.einsum(f"{spec}->{out}", table, *(f for _, f in factors))
    return result


def touched_pieces(groups: Sequence[ScalingGroup]) -> list[TouchedPiece]:
    """The trainable pieces that ``groups`` move, each once."""
    found: dict[object, tuple[Piece, list[_Member]]] = {}
    for index, group in enumerate(groups):
        for piece, charge in group.members():
            dims = tuple(piece.positions(axis)[0] for axis in group.units)
            entry = found.setdefault((piece.name, piece.steps), (piece, []))
            entry[1].append(_Member(index, charge, dims))
    return [TouchedPiece(piece, members) for piece, members in found.values()]


class ScalingTables:
    """The squared weights of ``state`` that ``groups`` scale, reduced once.

    Tables have the type of the state (sums of positive terms keep its precision); everything derived is float64.
    """

    def __init__(self, groups: Sequence[ScalingGroup], state: State) -> None:
        self.groups = tuple(groups)
        self.shapes = [tuple(atom.size for atom in g.units) for g in groups]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self._tables: list[tuple[TouchedPiece, Tensor]] = []
        self._of_group: list[list[tuple[TouchedPiece, Tensor, _Member]]] = [[] for _ in groups]
        for touched in touched_pieces(groups):
            table = touched.reduce(touched.piece.view(state).square())
            self._tables.append((touched, table))
            for member in touched.members:
                self._of_group[member.group].append((touched, table, member))

    def split(self, vector: Tensor) -> list[Tensor]:
        """Values for each unit of each group from one vector."""
        parts = torch.split(vector, self.sizes)
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def norms(self, index: int, logs: Sequence[Tensor]) -> list[tuple[float, Tensor]]:
        """Charges and squared norms of the pieces of one group, float64, after scaling by ``exp(logs)``."""
        result = []
        for touched, table, member in self._of_group[index]:
            inside: dict[str, Tensor] = {}
            for other in touched.members:
                if other.group != index:
                    log = 2 * other.charge * logs[other.group]
                    inside[other.letters] = inside[other.letters] + log if other.letters in inside else log
            factors = [(name, torch.exp(log).to(table.dtype)) for name, log in inside.items()]
            norm = _contract(touched.letters, table, factors, member.letters).double()
            result.append((member.charge, norm * torch.exp(2 * member.charge * logs[index])))
        return result

    def sweep(self, vector: Tensor) -> Tensor:
        """Bring one group after the other to its canonical form; takes and returns logarithms of the scales."""
        logs = self.split(vector)
        for index, group in enumerate(self.groups):
            logs[index] = logs[index] + group.balancing_log(self.norms(index, logs))
        return torch.cat([log.reshape(-1) for log in logs])

    def zeros(self) -> Tensor:
        """One zero for each unit."""
        device = self._tables[0][1].device if self._tables else torch.device("cpu")
        return torch.zeros(sum(self.sizes), dtype=torch.float64, device=device)

    # -- the Gram matrix of the generators ------------------------------------------------------

    def gram_diagonal(self) -> Tensor:
        """Diagonal of the Gram matrix."""
        diagonal = self.split(self.zeros())
        for touched, table in self._tables:
            for m in touched.members:
                diagonal[m.group] += m.charge**2 * touched.marginal(table, m).double()
        return torch.cat([d.reshape(-1) for d in diagonal])

    def gram_product(self, vector: Tensor, diagonal: Tensor) -> Tensor:
        """The Gram matrix applied to one vector."""
        values = self.split(vector)
        result = self.split(diagonal * vector)
        for touched, table in self._tables:
            for m in touched.members:
                for other in touched.members:
                    if other.group != m.group:
                        factor = (other.letters, values[other.group].to(table.dtype))
                        part = _contract(touched.letters, table, [factor], m.letters)
                        result[m.group] = result[m.group] + m.charge * other.charge * part
        return torch.cat([r.reshape(-1) for r in result])

    def gram(self, most: int | None = None) -> csc_matrix | None:
        """The Gram matrix, ``(n, n)``; ``None`` where it has too many entries, or more than ``most``."""
        most = _MOST_ENTRIES if most is None else min(most, _MOST_ENTRIES)
        starts = [sum(self.sizes[:k]) for k in range(len(self.sizes))]
        numbers = [np.arange(n) + start for n, start in zip(self.sizes, starts, strict=True)]
        entries = [(numbers[k], numbers[k], d) for k, d in enumerate(self.split(self.gram_diagonal()))]
        count = sum(self.sizes)
        for touched, table in self._tables:
            for m, other in itertools.combinations(touched.members, 2):
                if other.group == m.group:
                    continue
                dims = sorted({*m.dims, *other.dims})
                pair = _contract(touched.letters, table, [], "".join(string.ascii_letters[d] for d in dims))
                rows, columns = (
                    np.broadcast_to(
                        _along(numbers[k.group].reshape(self.shapes[k.group]), k.dims, dims), pair.shape
                    )
                    for k in (m, other)
                )
                values = m.charge * other.charge * pair
                entries += [(rows.ravel(), columns.ravel(), values), (columns.ravel(), rows.ravel(), values)]
                count += 2 * values.numel()
                if count > most:
                    return None
        weights = np.concatenate([part.double().reshape(-1).cpu().numpy() for *_, part in entries])
        places = tuple(np.concatenate([entry[side] for entry in entries]) for side in (0, 1))
        return csc_matrix((weights, places), shape=(sum(self.sizes), sum(self.sizes)))


def _along(numbers: np.ndarray[Any, Any], own: Sequence[int], dims: Sequence[int]) -> np.ndarray[Any, Any]:
    """``numbers`` over the dimensions ``own``, ready to broadcast over ``dims``, ascending."""
    order = sorted(range(len(own)), key=lambda k: own[k])
    shape = iter(numbers.shape[k] for k in order)
    result: np.ndarray[Any, Any] = numbers.transpose(order).reshape(
        [next(shape) if d in own else 1 for d in dims]
    )
    return result
