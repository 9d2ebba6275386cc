"""The generators of a rotation at one state, prepared to be applied often."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.groups.base import Generators
from shockwatch.symmetry.pieces import Piece


class TurningGenerators(Generators):
    """``P -> s A (P / s)`` on pieces as they lie, features first or last: without a copy where strides allow it.

    Args:
        sets: pieces with one ``s``, ``(layers, features, 1)`` (None: one), each with the dimension of its features.
        state: the point.
        project: onto the antisymmetric matrices of the group, ``(features, features)``.

    Raises:
        ValueError: where features lie between other dimensions.
    """

    def __init__(
        self,
        sets: Iterable[tuple[Tensor | None, Sequence[tuple[Piece, int]]]],
        state: State,
        project: Callable[[Tensor], Tensor],
    ) -> None:
        self._project, self._state = project, state
        self._sets: list[tuple[Tensor | None, list[tuple[Piece, bool, Tensor]]]] = []
        for scale, pieces in sets:
            members = []
            for piece, position in pieces:
                view = piece.view(state)
                last = position == view.dim() - 1
                if not last and position != int(piece.stacked):
                    raise ValueError(f"{piece.label}: its features must come first or last")
                members.append((piece, last, self._matrix(piece, last, state)))
            self._sets.append((scale if scale is None else scale.to(members[0][2].dtype), members))

    def _matrix(self, piece: Piece, last: bool, state: State) -> Tensor:
        """``(layers, rest, features)`` or ``(layers, features, rest)``; a copy where strides demand it."""
        view = piece.view(state)
        view = view if piece.stacked else view[None]
        if last:
            return view[:, None] if view.dim() == 2 else view.reshape(len(view), -1, view.shape[-1])
        return view.reshape(len(view), view.shape[1], -1)

    def turn_(self, rotation: Tensor) -> None:
        """Act with ``(features, features)`` on the state itself, in place."""
        for scale, members in self._sets:
            acting = scaled(rotation.to(members[0][2].dtype)[None], scale)
            for piece, last, matrix in members:
                view = piece.view(self._state)
                view.copy_((matrix @ acting.mT if last else acting @ matrix).reshape(view.shape))

    def generate_(self, coefficients: Tensor, tangent: State) -> None:
        skew = self._project(coefficients.double())
        for scale, members in self._sets:
            # it acts from the right as its transpose
            acting = scaled(skew.to(members[0][2].dtype)[None], scale)
            for piece, last, matrix in members:
                target, view = self._matrix(piece, last, tangent), piece.view(tangent)
                factors = (matrix, acting.mT) if last else (acting, matrix)
                target.baddbmm_(*(factor.expand(len(matrix), -1, -1) for factor in factors))
                if target.data_ptr() != view.data_ptr():
                    view.copy_(target.reshape(view.shape))

    def adjoint(self, tangent: State) -> Tensor:
        return self._project(self.meeting(tangent)).to(self._sets[0][1][0][2].dtype)

    def meeting(self, other: State) -> Tensor:
        """``sum (s other) (P / s)^T``, ``(features, features)``, float64."""
        met: list[Tensor] = []
        for scale, members in self._sets:
            total: Tensor | None = None
            for piece, last, matrix in members:
                moved = self._matrix(piece, last, other)
                part = moved.mT @ matrix if last else moved @ matrix.mT
                total = part if total is None else total + part
            assert total is not None
            met.append(scaled(total, scale).sum(0).double())
        return torch.stack(met).sum(0)


def scaled(matrix: Tensor, scale: Tensor | None) -> Tensor:
    """What acts on a piece where ``matrix`` acts on the piece over ``scale``."""
    return matrix if scale is None else scale * matrix / scale.mT
