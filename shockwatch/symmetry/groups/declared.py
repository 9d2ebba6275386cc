"""A continuous group that was declared by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup


class DeclaredGroup(ContinuousGroup):
    """Acts as the group it wraps, but stands apart from those the graph gave.

    They share tables over the axes of the graph; a declared group cuts parameters in its own way, which may run across
    those axes. So it meets the others as one block of its own, coupled wherever a parameter is shared.
    """

    def __init__(self, inner: ContinuousGroup) -> None:
        super().__init__(inner.name, inner.pieces, inner.evidence, inner.approximate)
        self.inner = inner
        self._shared = frozenset(inner.parameters)

    def meet(self, others: Sequence[SymmetryGroup]) -> None:
        """Take note of the pieces into which ``others`` cut its parameters."""
        cuts = {p.label for group in others for p in group.pieces if p.name in self.parameters}
        self._shared |= cuts

    @property
    def kind(self) -> str:  # type: ignore[override]
        """The kind of the group it wraps."""
        return self.inner.kind

    @property
    def shared(self) -> frozenset[str]:
        """Whole parameters, and every piece of another cut that overlaps with its own."""
        return self._shared

    @property
    def dim(self) -> int:
        return self.inner.dim

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        self.inner.transform_(state, generator, scale)

    def degenerate(self, state: State) -> int:
        return self.inner.degenerate(state)

    def canonicalize_(self, state: State) -> float:
        return self.inner.canonicalize_(state)

    @property
    def least_norm(self) -> bool:
        return self.inner.least_norm

    @property
    def frame_order(self) -> int:
        return self.inner.frame_order

    def fix_frame_(self, state: State) -> Tensor | None:
        return self.inner.fix_frame_(state)

    @property
    def has_frame(self) -> bool:
        return self.inner.has_frame

    def align_(self, state: State, reference: State) -> Tensor | None:
        return self.inner.align_(state, reference)

    def imbalance(self, state: State) -> Tensor:
        return self.inner.imbalance(state)

    def invariants(self, state: State) -> dict[str, Tensor]:
        return self.inner.invariants(state)

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        self.inner.generate_(coefficients, state, tangent)

    def adjoint(self, state: State, tangent: State) -> Tensor:
        return self.inner.adjoint(state, tangent)

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        return self.inner.solve_gram(coefficients, state)

    def inverts_roughly(self, state: State) -> bool:
        return self.inner.inverts_roughly(state)

    def gram_solver(self, state: State, *, rough: bool = False) -> Callable[[Tensor], Tensor]:
        return self.inner.gram_solver(state, rough=rough)
