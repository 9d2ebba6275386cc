"""The generators of a rotation at one state, prepared to be applied often."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.groups.base import Generators
from shockwatch.symmetry.pieces import Piece


class TurningGenerators(Generators):
    """``P -> s A (P / s)`` on pieces as they lie: copied only where features stand between, or strides demand it.

    Args:
        zero: ``(features, features)``, float64.
        sets: pieces with one ``s``, ``(layers, features, 1)`` (None: one), each with the dimension of its features.
        state: the point.
        project: onto the antisymmetric matrices of the group, ``(features, features)``.
    """

    def __init__(
        self,
        zero: Tensor,
        sets: Iterable[tuple[Tensor | None, Sequence[tuple[Piece, int]]]],
        state: State,
        project: Callable[[Tensor], Tensor],
    ) -> None:
        self._zero, self._project, self._state = zero, project, state
        self._sets: list[tuple[Tensor | None, list[tuple[Piece, int, Tensor]]]] = []
        for scale, pieces in sets:
            members = [(p, position, _matrix(p, position, state)) for p, position in pieces]
            self._sets.append((scale if scale is None else scale.to(members[0][2].dtype), members))

    def moves(self, labels: Container[str]) -> bool:
        """Whether it moves any piece with one of these labels."""
        return any(piece.label in labels for _, members in self._sets for piece, *_ in members)

    def turn_(self, rotation: Tensor) -> None:
        """Act with ``(features, features)`` on the state itself, in place."""
        for scale, members in self._sets:
            acting = scaled(rotation.to(members[0][2].dtype)[None], scale)
            for piece, position, matrix in members:
                turned = matrix @ acting.mT if _last(piece, position) else acting @ matrix
                _write(piece, position, self._state, turned)

    def generate_(self, coefficients: Tensor, tangent: State) -> None:
        skew = self._project(coefficients.double())
        for scale, members in self._sets:
            # it acts from the right as its transpose
            acting = scaled(skew.to(members[0][2].dtype)[None], scale)
            for piece, position, matrix in members:
                target = _matrix(piece, position, tangent)
                factors = (matrix, acting.mT) if _last(piece, position) else (acting, matrix)
                target.baddbmm_(*(factor.expand(len(matrix), -1, -1) for factor in factors))
                if target.data_ptr() != piece.view(tangent).data_ptr():
                    _write(piece, position, tangent, target)

    def adjoint(self, tangent: State) -> Tensor:
        met = self._project(self.meeting(tangent))
        return met.to(self._sets[0][1][0][2].dtype) if self._sets else met

    def meeting(self, other: State, labels: Container[str] | None = None) -> Tensor:
        """``sum (s other) (P / s)^T``, ``(features, features)``, float64.

        Args:
            labels: of the pieces that count; None: all.
        """
        met = []
        for scale, members in self._sets:
            parts = []
            for piece, position, matrix in members:
                if labels is None or piece.label in labels:
                    moved = _matrix(piece, position, other)
                    parts.append(moved.mT @ matrix if _last(piece, position) else moved @ matrix.mT)
            if parts:
                met.append(scaled(sum(parts[1:], parts[0]), scale).sum(0).double())
        return torch.stack(met).sum(0) if met else self._zero


def _last(piece: Piece, position: int) -> bool:
    return position == len(piece.atoms) - 1


def _moved(piece: Piece, position: int, state: State) -> Tensor:
    """The view with a dimension of layers (one, where the piece is no stack), features next or last."""
    view = piece.view(state) if piece.stacked else piece.view(state)[None]
    return view if _last(piece, position) else view.movedim(position + (not piece.stacked), 1)


def _matrix(piece: Piece, position: int, state: State) -> Tensor:
    """``(layers, rest, features)`` or ``(layers, features, rest)``; a copy where strides demand it."""
    moved = _moved(piece, position, state)
    size = piece.atoms[position].size
    shape = (-1, size) if _last(piece, position) else (size, -1)
    return moved.reshape(len(moved), *shape)


def _write(piece: Piece, position: int, state: State, matrix: Tensor) -> None:
    moved = _moved(piece, position, state)
    moved.copy_(matrix.reshape(moved.shape))


def scaled(matrix: Tensor, scale: Tensor | None) -> Tensor:
    """What acts on a piece where ``matrix`` acts on the piece over ``scale``."""
    return matrix if scale is None else scale * matrix / scale.mT
