"""GL(d) on an axis that only linear maps touch: query with key, value with output, linear with linear."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.charges import ChargeSystem, Scope
from shockwatch.symmetry.geometric_mean import RANK_TOLERANCE, balanced, balancing, conditioned, trace
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup, as_matrices, frame, write_matrices
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.scores import feeds_softmax

_TINY = torch.finfo(torch.float64).tiny


@dataclass(eq=False)
class GeneralLinear(ContinuousGroup):
    """``P -> A P`` on the pieces of charge +1, ``N -> A^-T N`` on those of charge -1.

    There is one ``A`` for each index of ``batch``.

    Pieces are stacked as matrices ``(batch, d, rest)``; biases are extra columns. Canonical form: ``P P^T = N N^T``
    (Kempf & Ness 1979), reached by ``A^T A = G_P^(-1/2) (G_P^(1/2) G_N G_P^(1/2))^(1/2) G_P^(-1/2)`` (theory.md 2).
    The orbit of a rank-deficient block has no such point, but its limit points have one: ``P = S^(1/2) U^T`` and
    ``N = S^(1/2) V^T`` for ``P^T N = U S V^T``, rows beyond the rank of the product zero. That is where it goes.

    Attributes:
        charges: +1 or -1 for each piece.
        axis: the axis of length ``d``.
        batch: axes (heads) along which ``A`` differs.
        scores: whether the product makes the logits of a softmax: queries and keys.
    """

    kind: ClassVar[str] = "general linear"
    can_stack: ClassVar[bool] = True

    charges: tuple[float, ...] = ()
    axis: Atom | None = None
    batch: tuple[Atom, ...] = ()
    scores: bool = False

    @property
    def _row(self) -> Atom:
        assert self.axis is not None
        return self.axis

    @property
    def blocks(self) -> int:
        """Number of independent blocks (heads)."""
        return math.prod(atom.size for atom in self.batch)

    @property
    def dim(self) -> int:
        # On an axis wider than both sides, matrices between what neither side spans move nothing.
        unused = [max(self._row.size - self._columns(sign), 0) for sign in (1.0, -1.0)]
        return self.blocks * (self._row.size**2 - unused[0] * unused[1])

    def _columns(self, sign: float) -> int:
        return sum(math.prod(a.size for a in p.atoms) for p in self._members(sign)) // (
            self.blocks * self._row.size
        )

    def _members(self, sign: float) -> Iterator[Piece]:
        return (p for p, q in zip(self.pieces, self.charges, strict=True) if q == sign and p.trainable)

    def _stack(self, state: State, sign: float) -> Tensor:
        """The pieces of one charge side by side, ``(blocks, d, columns)``."""
        parts = [as_matrices(p, p.view(state), self.batch, self._row) for p in self._members(sign)]
        return torch.cat(parts, -1)

    def _act_(self, state: State, matrix: Tensor, inverse_transpose: Tensor) -> None:
        for piece, charge in zip(self.pieces, self.charges, strict=True):
            view = piece.view(state)
            matrices = as_matrices(piece, view, self.batch, self._row)
            factor = (matrix if charge > 0 else inverse_transpose).to(view.dtype)
            write_matrices(piece, view, self.batch, self._row, factor @ matrices)

    def _gram(self, state: State, sign: float) -> Tensor:
        stack = self._stack(state, sign).double()
        result: Tensor = stack @ stack.transpose(-2, -1)
        return result

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        d, count = self._row.size, self.blocks

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)

        left, right = (torch.linalg.qr(draw(count, d, d)).Q for _ in range(2))
        sizes = torch.exp(scale * draw(count, d, 1))
        device = self.pieces[0].view(state).device
        matrix = (left @ (sizes * right)).to(device)
        inverse = (left @ (right / sizes)).to(device)
        self._act_(state, matrix, inverse)

    def canonicalize_(self, state: State) -> float:
        moved = 0.0
        wide = self.pieces[0].view(state).dtype == torch.float64
        tolerance = 1e-12 if wide else 1e-6
        # A second pass removes what an ill-conditioned first one leaves.
        for _ in range(3):
            move, _ = self.relax_(state)
            moved = max(moved, move)
            if move < tolerance:
                break
        return moved

    def relax_(self, state: State, power: float = 1.0) -> tuple[float, Tensor]:
        """One step to the balance, or beyond: the balancing matrix to a ``power``.

        Returns:
            The relative change, and the matrix applied.

        Changes are of the weights, not of logarithms: small singular values of weights in single precision are noise.
        """
        grams = self._gram(state, 1.0), self._gram(state, -1.0)
        vectors, logs, precise = balancing(*grams)
        logs = power * logs
        change = torch.zeros((), dtype=torch.float64)
        for sign, gram in zip((1.0, -1.0), grams, strict=True):
            moved = ((gram @ vectors) * vectors).sum(-2) * torch.expm1(sign * logs).square()
            change = torch.maximum(change, moved.sum(-1).div(trace(gram)).max().sqrt().cpu())
        matrix, inverse = ((vectors * torch.exp(s * logs)[:, None, :]) @ vectors.mT for s in (1.0, -1.0))
        if bool(precise.all()):
            self._act_(state, matrix, inverse)
            return float(change), matrix
        before = [self._stack(state, sign)[~precise].double() for sign in (1.0, -1.0)]
        self._act_(state, matrix, inverse)
        *after, matrix[~precise] = balanced(before[0], before[1], power)
        self._write_(state, ~precise, after)
        lost = [
            (new - old).norm() / old.norm().clamp_min(_TINY) for old, new in zip(before, after, strict=True)
        ]
        return max(float(change), *(float(x) for x in lost)), matrix

    def apply_(self, state: State, matrix: Tensor) -> None:
        """Act with ``(blocks, d, d)`` in place."""
        self._act_(state, matrix, torch.linalg.inv(matrix).mT)

    def _write_(self, state: State, blocks: Tensor, sides: Sequence[Tensor]) -> None:
        """Replace some blocks by stacks of both charges."""
        for sign, side in zip((1.0, -1.0), sides, strict=True):
            stack = self._stack(state, sign)
            stack[blocks] = side.to(stack.dtype)
            members = list(self._members(sign))
            widths = [math.prod(a.size for a in p.atoms) // (self.blocks * self._row.size) for p in members]
            for piece, part in zip(members, torch.split(stack, widths, -1), strict=True):
                write_matrices(piece, piece.view(state), self.batch, self._row, part)

    def degenerate(self, state: State) -> int:
        widths = [min(self._columns(sign), self._row.size) for sign in (1.0, -1.0)]
        grams = [self._gram(state, sign) for sign in (1.0, -1.0)]
        full = [conditioned(gram, width) for gram, width in zip(grams, widths, strict=True)]
        return int((~(full[0] & full[1])).sum())

    def imbalance(self, state: State) -> Tensor:
        grams = self._gram(state, 1.0), self._gram(state, -1.0)
        _, logs, precise = balancing(*grams)
        if not bool(precise.all()):
            p, n = (self._stack(state, sign)[~precise].double() for sign in (1.0, -1.0))
            *_, matrices = balanced(p, n)
            logs[~precise] = torch.linalg.eigvalsh(matrices).clamp_min(_TINY).log()
        return self._by_layer(logs)

    def between(self, before: State, after: State) -> Tensor:
        """The matrix of each block, ``(blocks, d, d)``, that takes ``before`` to ``after``."""
        old, new = (self._stack(state, 1.0).double() for state in (before, after))
        eye = torch.eye(self._row.size, dtype=old.dtype, device=old.device)
        # what the columns do not span stays
        inverse = torch.linalg.pinv(old)
        matrix: Tensor = new @ inverse + eye - old @ inverse
        return matrix.cpu()

    def stacked(self, layer: Atom) -> GeneralLinear:
        return dataclasses.replace(self, batch=(layer, *self.batch))

    def fix_frame_(self, state: State) -> Tensor | None:
        stack = self._stack(state, 1.0).double()
        overlap = frame((stack.shape[-1], self._row.size), stack).transpose(-2, -1) @ stack.transpose(-2, -1)
        return self._rotate_(state, overlap)

    def align_(self, state: State, reference: State) -> Tensor | None:
        return self.turn_(state, reference, self.pieces)

    def turn_(self, state: State, reference: State, pieces: Sequence[Piece]) -> Tensor:
        """Nearest to ``reference`` in ``pieces`` alone; returns the rotation applied."""
        overlap = sum(
            (
                as_matrices(p, p.view(reference), self.batch, self._row).double()
                @ as_matrices(p, p.view(state), self.batch, self._row).double().mT
                for p in pieces
            ),
            torch.zeros((), dtype=torch.float64),
        )
        return self._rotate_(state, overlap)

    def _rotate_(self, state: State, overlap: Tensor) -> Tensor:
        """Orthogonal Procrustes: the rotation that maximises ``tr(O overlap^T)``."""
        left, _, right = torch.linalg.svd(overlap)
        rotation: Tensor = left @ right
        self._act_(state, rotation, rotation)
        return rotation

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        for piece, charge in zip(self.pieces, self.charges, strict=True):
            if not piece.trainable:
                continue
            matrices = as_matrices(piece, piece.view(state), self.batch, self._row)
            step = coefficients @ matrices if charge > 0 else -(coefficients.transpose(-2, -1) @ matrices)
            target = piece.view(tangent)
            old = as_matrices(piece, target, self.batch, self._row)
            write_matrices(piece, target, self.batch, self._row, old + step)

    def adjoint(self, state: State, tangent: State) -> Tensor:
        growing = self._stack(tangent, 1.0) @ self._stack(state, 1.0).transpose(-2, -1)
        result: Tensor = growing - self._stack(state, -1.0) @ self._stack(tangent, -1.0).transpose(-2, -1)
        return result

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        return self.gram_solver(state)(coefficients)

    def gram_solver(self, state: State, *, rough: bool = False) -> Callable[[Tensor], Tensor]:
        """The Sylvester equation ``G_N X + X G_P = R`` in the eigenbases of both Gram matrices."""
        p_values, p_vectors = torch.linalg.eigh(self._gram(state, 1.0))
        n_values, n_vectors = torch.linalg.eigh(self._gram(state, -1.0))
        weights = n_values[:, :, None] + p_values[:, None, :]
        floor = RANK_TOLERANCE * weights.amax((-2, -1), keepdim=True)
        inverse = torch.where(weights > floor, 1.0 / weights, torch.zeros_like(weights))

        def solve(coefficients: Tensor) -> Tensor:
            rotated = n_vectors.transpose(-2, -1) @ coefficients.double() @ p_vectors
            solved: Tensor = n_vectors @ (rotated * inverse) @ p_vectors.transpose(-2, -1)
            return solved.to(coefficients.dtype)

        return solve

    def head_similarity(self, state: State, reference: State) -> Tensor:
        """Largest inner product of any two blocks under a rotation, ``(blocks of reference, blocks of state)``."""
        ours = torch.cat([self._stack(state, sign).double() for sign in (1.0, -1.0)], -1)
        theirs = torch.cat([self._stack(reference, sign).double() for sign in (1.0, -1.0)], -1)
        overlap = torch.einsum("hdm,kem->hkde", theirs, ours)
        result: Tensor = torch.linalg.svdvals(overlap).sum(-1)
        return result

    def likeness(self, other: GeneralLinear, state: State, reference: State) -> Tensor:
        """Largest inner product of these blocks in ``reference`` with ``other``'s in ``state`` under a rotation."""
        pairs = [(self._stack(reference, s).double(), other._stack(state, s).double()) for s in (1.0, -1.0)]
        overlap = torch.stack([theirs @ ours.mT for theirs, ours in pairs]).sum(0)
        result: Tensor = torch.linalg.svdvals(overlap).sum()
        return result

    def singular_values(self, state: State) -> Tensor:
        """Singular values of the invariant product ``P^T N``, ``(blocks, d)``, largest last."""
        root = _powers(self._gram(state, 1.0), 0.5)
        square = root @ self._gram(state, -1.0) @ root
        result: Tensor = torch.linalg.eigvalsh((square + square.transpose(-2, -1)) / 2).clamp_min(0).sqrt()
        return result

    def head_invariants(self, state: State) -> dict[str, Tensor]:
        """Spectral norm, stable rank and effective rank of the product, each of shape ``(blocks,)``."""
        values = self.singular_values(state)
        largest = values[:, -1]
        tiny = _TINY
        shares = values / values.sum(-1, keepdim=True).clamp_min(tiny)
        return {
            "spectral_norm": largest,
            "stable_rank": values.square().sum(-1) / largest.square().clamp_min(tiny),
            "effective_rank": torch.exp(-(shares * torch.log(shares.clamp_min(tiny))).sum(-1)),
        }

    def invariants(self, state: State) -> dict[str, Tensor]:
        """:meth:`head_invariants` of the extreme head: the largest norm, the smallest ranks.

        Of queries and keys also ``logit_norm``, that norm over the root of the width, as attention has it.
        """
        heads = {key: v.reshape(self.layers, -1) for key, v in self.head_invariants(state).items()}
        largest = heads["spectral_norm"].amax(1)
        return {
            **({"logit_norm": largest / math.sqrt(self._row.size)} if self.scores else {}),
            "spectral_norm": largest,
            "stable_rank": heads["stable_rank"].amin(1),
            "effective_rank": heads["effective_rank"].amin(1),
        }


def _powers(matrix: Tensor, power: float) -> Tensor:
    """A power of a symmetric positive matrix; negative powers leave the null space at zero."""
    values, vectors = torch.linalg.eigh((matrix + matrix.transpose(-2, -1)) / 2)
    floor = RANK_TOLERANCE * values[..., -1:].clamp_min(0) * (power < 0)
    safe = values.clamp_min(torch.finfo(torch.float64).tiny)
    powered = torch.where(values > floor, safe**power, torch.zeros_like(values))
    result: Tensor = (vectors * powered[..., None, :]) @ vectors.transpose(-2, -1)
    return result


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Every axis between two stacks of weights that only linear maps touch."""
    groups: list[SymmetryGroup] = []
    weights = frozenset(piece.symbol.id for piece in system.analysis.pieces)
    for axis in system.analysis.axes():
        for solution in system.basis(axis, Scope.LINEAR):
            members = [
                (p, float(solution[p.symbol.id])) for p in system.analysis.pieces if p.symbol.id in solution
            ]
            first = members[0][1]
            members = [(p, q / first) for p, q in members]
            if {q for _, q in members} != {1.0, -1.0} or not all(p.trainable for p, _ in members):
                continue
            batch = tuple(atom for atom in system.shared_axes(solution) if atom is not axis)
            sides = [p for p, q in members if q > 0], [p for p, q in members if q < 0]
            evidence = f"axis of {axis.size} between linear maps only"
            pieces, charges = tuple(p for p, _ in members), tuple(q for _, q in members)
            scores = feeds_softmax(system.analysis.records, axis, weights)
            groups.append(
                GeneralLinear(
                    block_name(*sides),
                    pieces,
                    evidence,
                    charges=charges,
                    axis=axis,
                    batch=batch,
                    scores=scores,
                )
            )
    return groups
