"""O(d) of a residual stream that only norms read; O(d-1) where the norms remove the mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.conjugate_gradients import conjugate_gradients
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup, frame
from shockwatch.symmetry.groups.general_linear import GeneralLinear
from shockwatch.symmetry.groups.turning import TurningGenerators
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.streams import Stream, find_streams

_EQUAL = 32.0  # gains that differ by so many roundings are one
_DEAD = 1e-12  # a gain this small, next to the largest, has no inverse to turn through


@dataclass(eq=False)
class Rotation(ContinuousGroup):
    """``P -> R P`` for what writes into the stream, ``W -> W g R^T g^-1`` for what reads it after a gain ``g``.

    ``R`` is orthogonal, and fixes the vector of ones where a norm removes the mean. Biases of norms turn as
    ``b -> g R g^-1 b``; the gains stay. With the gains of each norm equal in size (their slice, see
    :class:`~shockwatch.symmetry.groups.scaling.FoldedGain`) every ``R`` is an isometry: there is nothing to balance,
    and two canonical points differ by a rotation that :meth:`align_` removes.
    Permutations of the features, and their signs, are inside.

    Attributes:
        stream: the axis, and which pieces turn how.
    """

    kind: ClassVar[str] = "rotation"
    isometric: ClassVar[bool] = True

    stream: Stream | None = None

    @property
    def _parts(self) -> Stream:
        assert self.stream is not None
        return self.stream

    @property
    def gains(self) -> tuple[Piece, ...]:
        """The gains between the stream and its readers: fixed, but their sizes enter."""
        return self._parts.gains

    @property
    def size(self) -> int:
        """Features of the stream."""
        return self._parts.axis.size

    @property
    def dim(self) -> int:
        free = self.size - self._parts.centred
        return free * (free - 1) // 2

    # -- the pieces -----------------------------------------------------------------------------------

    def _matrix(self, piece: Piece, state: State) -> Tensor:
        """``(layers, features, columns)``; one layer where the piece is no stack."""
        view = piece.view(state) if piece.stacked else piece.view(state)[None]
        moved = view.movedim(piece.positions(self._parts.axis)[0] + (not piece.stacked), 1)
        return moved.reshape(len(moved), self.size, -1)

    def _zeros(self, state: State) -> Tensor:
        device = self.pieces[0].view(state).device
        return torch.zeros(self.size, self.size, dtype=torch.float64, device=device)

    def _members(self) -> Iterator[tuple[Piece, Piece | None, bool]]:
        """Pieces, the gain before them, whether they read."""
        for piece, gain in self._parts.moved:
            yield piece, gain, False
        for piece, gain in self._parts.read:
            yield piece, gain, True

    def _frames(self, state: State) -> Iterator[tuple[Piece, Tensor | None]]:
        """Pieces with ``s``, float64, ``(layers, features, 1)``, such that ``R`` acts on ``matrix / s``; None: one.

        Columns ``g W`` of a reader have ``s = 1 / g``. Nothing where a gain is zero: it hides a feature that the
        readers would need to turn back.
        """
        if not self._alive(state):
            return
        for piece, gain, reads in self._members():
            size = gain.view(state).double().reshape(-1, self.size, 1) if gain is not None else None
            yield piece, 1.0 / size if reads and size is not None else size

    def _alive(self, state: State) -> bool:
        for gain in self._parts.gains:
            size = gain.view(state).abs().reshape(-1, self.size)
            if not bool((size.amin(1) > _DEAD * size.amax(1)).all()):
                return False
        return True

    def turn_(self, state: State, rotation: Tensor) -> None:
        """Act with ``rotation``, ``(d, d)``, in place."""
        self.generators(state).turn_(rotation)

    def _project(self, matrix: Tensor) -> Tensor:
        """Onto antisymmetric matrices, those with ``A 1 = 0`` where the ones are fixed."""
        skew = (matrix - matrix.T) / 2
        if self._parts.centred:
            skew = skew - skew.mean(0, keepdim=True) - skew.mean(1, keepdim=True)
        return skew

    def _nearest(self, overlap: Tensor) -> Tensor:
        """The rotation that maximises ``tr(R overlap^T)`` (orthogonal Procrustes)."""
        if self._parts.centred:
            overlap = overlap - overlap.mean(0, keepdim=True)
            overlap = overlap - overlap.mean(1, keepdim=True)
            # as large as the rest, so that the ones are a singular vector of their own
            overlap = overlap + overlap.norm() / self.size**1.5
        left, _, right = torch.linalg.svd(overlap)
        turn: Tensor = left @ right
        return turn

    # -- the group ------------------------------------------------------------------------------

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        shape = (self.size, self.size)
        draw = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        self.turn_(state, self._nearest(draw.to(self.pieces[0].view(state).device)))

    @property
    def least_norm(self) -> bool:
        return not self.gains

    @property
    def frame_order(self) -> int:
        return 0

    def _anchors(self, state: State) -> Tensor:
        return torch.cat([self._matrix(p, state)[0].double() for p in self._parts.anchors()], 1)

    def fix_frame_(self, state: State) -> Tensor | None:
        """Turn the writers that nothing else turns towards a fixed random frame."""
        anchors = self._anchors(state)
        rotation = self._nearest(frame(anchors.shape, anchors) @ anchors.T)
        self.turn_(state, rotation)
        return rotation

    def align_(self, state: State, reference: State) -> Tensor | None:
        """Nearest in the writers that nothing else turns: the others can be compared only afterwards."""
        rotation = self._nearest(self._anchors(reference) @ self._anchors(state).T)
        self.turn_(state, rotation)
        return rotation

    def turn_towards_(self, state: State, reference: State, labels: Container[str]) -> Tensor | None:
        """Nearest in the pieces with these labels; where there are none, as :meth:`align_`. Returns the rotation."""
        turning = self.generators(state)
        if not turning.moves(labels):
            return self.align_(state, reference)
        rotation = self._nearest(turning.meeting(reference, labels))
        turning.turn_(rotation)
        return rotation

    def between(self, before: State, after: State) -> Tensor:
        """The rotation that takes ``before`` to ``after``."""
        return self._nearest(self._anchors(after) @ self._anchors(before).T).cpu()

    def refine_(self, state: State, reference: State, tolerance: float) -> Tensor | None:
        """Nearest in all pieces, once the other groups are aligned; None where all is within ``tolerance`` of it."""
        turning = self.generators(state)
        overlap = turning.meeting(reference)
        rotation = self._nearest(overlap)
        change = rotation - torch.eye(self.size, dtype=rotation.dtype, device=rotation.device)
        if float(((change @ overlap) * change).sum()) <= tolerance**2 * float(overlap.trace()):
            return None
        turning.turn_(rotation)
        return rotation

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        self.generators(state).generate_(coefficients, tangent)

    def adjoint(self, state: State, tangent: State) -> Tensor:
        return self.generators(state).adjoint(tangent)

    def generators(self, state: State) -> TurningGenerators:
        """Prepared at one state; nothing moves where a gain is zero."""
        sets: dict[tuple[Piece | None, bool, int], list[tuple[Piece, int]]] = {}
        scales = dict(self._frames(state))
        for piece, gain, reads in self._members():
            if piece in scales:
                layers = len(piece.view(state)) if piece.stacked else 1
                key = gain, reads and gain is not None, layers
                sets.setdefault(key, []).append((piece, piece.positions(self._parts.axis)[0]))
        members = [(scales[pieces[0][0]], pieces) for pieces in sets.values()]
        return TurningGenerators(self._zeros(state), members, state, self._project)

    def inverts_roughly(self, state: State) -> bool:
        return not any(_uneven(scale, piece.view(state).dtype) for piece, scale in self._frames(state))

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        return self.gram_solver(state)(coefficients)

    def gram_solver(self, state: State, *, rough: bool = False) -> Callable[[Tensor], Tensor]:
        """Conjugate gradients on ``A -> sum s^2 A K`` (``K`` the Gram matrix of ``matrix / s``), made antisymmetric.

        Where the gains are equal this is ``(A K + K A) / 2``, which the eigenbasis of ``K`` inverts in one step;
        ``rough`` leaves it at that.
        """
        level = total = self._zeros(state)
        squares: list[Tensor] = []
        grams: list[Tensor] = []
        for piece, scale in self._frames(state):
            matrix = self._matrix(piece, state)
            gram = (matrix @ matrix.mT).double()
            mean = torch.ones((), dtype=torch.float64, device=gram.device)
            if scale is not None:
                square = scale.square()
                gram, mean = gram / scale / scale.mT, square.mean(1, keepdim=True)
                if _uneven(scale, matrix.dtype):
                    squares.append(square - mean)
                    grams.append(gram)
            level = level + (mean * gram).sum(0)
        total = level
        if self._parts.centred:
            total = total - total.mean(0, keepdim=True)
            total = total - total.mean(1, keepdim=True)
        values, vectors = torch.linalg.eigh((total + total.T) / 2)
        weights = (values[:, None] + values[None, :]) / 2
        floor = 1e-13 * weights.max()
        inverse = torch.where(weights > floor, 1.0 / weights, torch.zeros_like(weights))

        def precondition(skew: list[Tensor]) -> list[Tensor]:
            return [self._project(vectors @ ((vectors.T @ skew[0] @ vectors) * inverse) @ vectors.T)]

        if rough or not grams:
            return lambda c: precondition([self._project(c.double())])[0].to(c.dtype)
        uneven, gram = torch.cat(squares), torch.cat(grams)

        def product(skew: list[Tensor]) -> list[Tensor]:
            return [self._project(skew[0] @ level + (uneven * (skew[0] @ gram)).sum(0))]

        def solve(coefficients: Tensor) -> Tensor:
            right = [self._project(coefficients.double())]
            return conjugate_gradients(product, right, precondition, 1e-14)[0].to(coefficients.dtype)

        return solve

    # -- many layers -------------------------------------------------------------------------------

    def parts(self) -> list[tuple[Any, ...]]:
        stream = self._parts
        members = [
            (kind, p, g) for kind, pairs in (("moved", stream.moved), ("read", stream.read)) for p, g in pairs
        ]
        return [
            *((*m, stream.axis) for m in members),
            *(("gain", g, None, stream.axis) for g in stream.gains),
        ]

    def pooled(self, parts: Sequence[tuple[Any, ...]]) -> Rotation:
        moved, read = (tuple((p, g) for k, p, g, _ in parts if k == kind) for kind in ("moved", "read"))
        gains = tuple(p for k, p, *_ in parts if k == "gain")
        stream = dataclasses.replace(self._parts, moved=moved, read=read, gains=gains)
        return dataclasses.replace(self, pieces=tuple(p for p, _ in (*moved, *read)), stream=stream)


def _uneven(scale: Tensor | None, dtype: torch.dtype) -> bool:
    """Whether gains differ in size by more than rounding."""
    if scale is None:
        return False
    square = scale.square()
    mean = square.mean(1, keepdim=True)
    return bool(((square - mean).abs() > _EQUAL * torch.finfo(dtype).eps * mean).any())


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Every stream that norms alone read, with writers enough that only the rotation can undo the rotation."""
    linear = {group.axis for group in found if isinstance(group, GeneralLinear)}
    groups: list[SymmetryGroup] = []
    for stream in find_streams(system):
        columns = sum(math.prod(a.size for a in p.atoms) // stream.axis.size for p in stream.anchors())
        if stream.axis in linear or columns < stream.axis.size - stream.centred:
            continue
        writers, readers = [p for p, _ in stream.moved], [p for p, _ in stream.read]
        evidence = f"stream of {stream.axis.size} features that norms alone read"
        name = block_name(writers, readers)
        groups.append(Rotation(name, (*writers, *readers), evidence, stream=stream))
    return groups
