"""What every symmetry group can do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.pieces import Piece


@dataclass(eq=False)
class SymmetryGroup(ABC):
    """A group of transformations of parameters (and running statistics) that leave the network's function alone.

    Attributes:
        kind: the field's name of the group.
        name: which parameters it ties, fit for a TensorBoard tag.
        pieces: the parts of tensors it moves.
        dim: number of continuous directions.
        evidence: why the graph allows it.
        approximate: an eps in a norm keeps the invariance from being exact.
        residual: measured relative change of the loss under a random element, float64; NaN before it is measured.
        layers: number of equal layers it stands for, the first axis of what it acts on; see
            :mod:`shockwatch.symmetry.stacking`.
    """

    kind: ClassVar[str]

    name: str
    pieces: tuple[Piece, ...]
    evidence: str
    approximate: bool = False
    residual: float = field(default=math.nan, kw_only=True)
    layers: int = field(default=1, kw_only=True)

    speculative: ClassVar[bool] = False
    """Suggested by the shape of the pieces more than by the graph: that the measurement refuses it is no news."""

    shape_bound: ClassVar[bool] = False
    """True of every batch of the probed shape, but not of others: a longer sequence reads more positions."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of continuous directions; 0 for a finite group."""

    @property
    def exact(self) -> bool:
        """No eps stands in its way, and the measured residual is rounding (below 1e-9)."""
        return not self.approximate and self.residual < 1e-9

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the tensors it moves."""
        return tuple(dict.fromkeys(piece.name for piece in self.pieces))

    @property
    def shared(self) -> frozenset[str]:
        """Labels of its pieces: what another group has to move to meet this one."""
        return frozenset(piece.label for piece in self.pieces)

    @abstractmethod
    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        """Apply a random element in place; ``scale`` is the standard deviation of its logarithm."""

    def canonicalize_(self, state: State) -> float:
        """Move to the canonical point of this group's orbit in place; returns the size of the move (log units)."""
        return 0.0

    @property
    def least_norm(self) -> bool:
        """Whether the canonical form is the point of least norm on the orbit, and not another slice."""
        return True

    @property
    def frame_order(self) -> int:
        """Groups fix their frames in this order: one that reads what another turns comes after it."""
        return 100

    def fix_frame_(self, state: State) -> Tensor | None:
        """Choose one point of the compact orbit that the canonical form leaves, by a fixed random frame.

        Returns:
            The matrix applied, for groups of matrices.
        """
        return None

    @property
    def has_frame(self) -> bool:
        """Whether :meth:`align_` can move anything."""
        return type(self).align_ is not SymmetryGroup.align_

    def align_(self, state: State, reference: State) -> Tensor | None:
        """Move along the compact orbit, in place, to the point nearest to ``reference``.

        Returns:
            The matrix applied, for groups of matrices.
        """
        return None

    def imbalance(self, state: State) -> Tensor:
        """Distance from the canonical slice (log units, root mean square), ``(layers,)``; NaN without a slice."""
        return torch.full((self.layers,), math.nan, dtype=torch.float64)

    def invariants(self, state: State) -> dict[str, Tensor]:
        """Gauge-invariant numbers of this block by name, each ``(layers,)``; none by default."""
        return {}

    # -- many equal layers as one group ----------------------------------------------------------

    can_stack: ClassVar[bool] = False
    """Whether :meth:`stacked` is there."""

    def stacked(self, layer: Atom) -> SymmetryGroup:
        """The group over one more axis, given this group with the pieces of stacks in place of its own."""
        raise NotImplementedError

    def parts(self) -> list[tuple[Any, ...]]:
        """For a group of many layers: what it does with each piece, in terms of pieces, axes and numbers."""
        return []

    def pooled(self, parts: Sequence[tuple[Any, ...]]) -> SymmetryGroup:
        """The same group, made of ``parts`` that stand for those of all layers."""
        raise NotImplementedError

    def _by_layer(self, logs: Tensor) -> Tensor:
        """Root mean square of values whose first axis, if there are several layers, runs over them; float64."""
        return logs.double().reshape(self.layers, -1).square().mean(1).sqrt()


class Generators:
    """The generators of a group at one state, to be applied often.

    Args:
        group: whose they are.
        state: must not change while they are in use.
    """

    def __init__(self, group: ContinuousGroup, state: State) -> None:
        self._group, self._state = group, state

    def generate_(self, coefficients: Tensor, tangent: State) -> None:
        """Add the vertical vector with these coefficients to ``tangent``."""
        self._group.generate_(coefficients, self._state, tangent)

    def adjoint(self, tangent: State) -> Tensor:
        """Inner products of ``tangent`` with the generators."""
        return self._group.adjoint(self._state, tangent)


class ContinuousGroup(SymmetryGroup):
    """A group with generators: what the horizontal projection needs (theory.md 3).

    Attributes:
        kept_by_others: whether no other group's canonical form disturbs this one's, so that it is done once and first.
        isometric: whether the group keeps all norms where the others are canonical, so that nothing is to balance.
    """

    kept_by_others: ClassVar[bool] = False
    isometric: ClassVar[bool] = False

    def degenerate(self, state: State) -> int:
        """How many units or blocks have no point of least norm on their orbit at ``state``, only a limit."""
        return 0

    @abstractmethod
    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        """Add the vertical vector with these Lie-algebra ``coefficients`` at ``state`` to ``tangent``."""

    @abstractmethod
    def adjoint(self, state: State, tangent: State) -> Tensor:
        """Inner products of ``tangent`` with the generators at ``state``."""

    @abstractmethod
    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        """Apply the (pseudo-)inverse of this group's own Gram matrix of generators."""

    def generators(self, state: State) -> Generators:
        """The generators at one state, whose tangents lie in memory as the state does."""
        return Generators(self, state)

    def inverts_roughly(self, state: State) -> bool:
        """Whether even the rough :meth:`gram_solver` at ``state`` is exact."""
        return True

    def gram_solver(self, state: State, *, rough: bool = False) -> Callable[[Tensor], Tensor]:
        """:meth:`solve_gram` at one state, to be applied often; ``rough``: a cheap linear approximation will do."""
        return lambda coefficients: self.solve_gram(coefficients, state)


def units_last(piece: Piece, view: Tensor, axes: Sequence[Atom]) -> Tensor:
    """``view`` with its other dimensions first and ``axes`` last, in their order."""
    unit = [piece.positions(axis)[0] for axis in axes]
    rest = [d for d in range(view.dim()) if d not in unit]
    return view.permute((*rest, *unit))


def as_matrices(piece: Piece, view: Tensor, batch: Sequence[Atom], row: Atom) -> Tensor:
    """``view`` as matrices ``(batch, row, rest)``; a copy where strides demand it."""
    lead = [piece.positions(axis)[0] for axis in batch]
    rows = piece.positions(row)[0]
    rest = [d for d in range(view.dim()) if d not in (*lead, rows)]
    moved = view.permute(*lead, rows, *rest)
    count = math.prod(axis.size for axis in batch)
    return moved.reshape(count, row.size, -1)


def write_matrices(piece: Piece, view: Tensor, batch: Sequence[Atom], row: Atom, matrices: Tensor) -> None:
    """Write matrices from :func:`as_matrices` back into ``view``."""
    lead = [piece.positions(axis)[0] for axis in batch]
    rows = piece.positions(row)[0]
    rest = [d for d in range(view.dim()) if d not in (*lead, rows)]
    moved = view.permute(*lead, rows, *rest)
    moved.copy_(matrices.reshape(moved.shape))


def frame(shape: Sequence[int], like: Tensor) -> Tensor:
    """A fixed random tensor: the same for every call with one shape."""
    generator = torch.Generator().manual_seed(20260618)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(like.device)
