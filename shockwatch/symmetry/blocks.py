"""Sets of generators at one frozen state whose Gram matrix is inverted directly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.conjugate_gradients import conjugate_gradients
from shockwatch.symmetry.groups import ContinuousGroup, ScalingGroup
from shockwatch.symmetry.tables import ScalingTables, touched_pieces

_PIVOT = 1e-9
_LOOSE = 1e-9  # tolerances above this take few steps of conjugate gradients
_MOST_BESIDE = 256  # neighbours of a unit, on average: above, a factor takes longer than these steps


class Block(ABC):
    """Generators ``G``: ``adjoint`` is ``G^T t``, ``generate_`` adds ``G c``, ``solve`` applies ``(G^T G)^-1``.

    Attributes:
        names: the tensors they move.
        labels: the pieces they move.
        dim: their number.
    """

    def __init__(self, groups: Sequence[ContinuousGroup]) -> None:
        self.names = list(dict.fromkeys(name for g in groups for name in g.parameters))
        self.labels = {label for g in groups for label in g.shared}
        self.dim = sum(g.dim for g in groups)

    @abstractmethod
    def adjoint(self, tangent: State) -> Tensor:
        """Inner products of ``tangent`` with the generators."""

    @abstractmethod
    def generate_(self, coefficients: Tensor, tangent: State) -> None:
        """Add the vertical vector with these coefficients to ``tangent``."""

    @abstractmethod
    def solve(self, coefficients: Tensor) -> Tensor:
        """Apply the (pseudo-)inverse Gram matrix."""

    def precondition(self, coefficients: Tensor) -> Tensor:
        """A fixed linear approximation of :meth:`solve`, for conjugate gradients over several blocks."""
        return self.solve(coefficients)

    @cached_property
    def exact(self) -> bool:
        """Whether :meth:`precondition` is no approximation."""
        raise NotImplementedError


class GroupBlock(Block):
    """One group by itself."""

    def __init__(self, group: ContinuousGroup, state: State) -> None:
        super().__init__([group])
        self._group = group
        self._state = state
        self._generators = group.generators(state)

    def adjoint(self, tangent: State) -> Tensor:
        return self._generators.adjoint(tangent)

    def generate_(self, coefficients: Tensor, tangent: State) -> None:
        self._generators.generate_(coefficients, tangent)

    def solve(self, coefficients: Tensor) -> Tensor:
        return self._solver(coefficients)

    def precondition(self, coefficients: Tensor) -> Tensor:
        return self._solver(coefficients) if self.exact else self._preconditioner(coefficients)

    @cached_property
    def exact(self) -> bool:
        return self._group.inverts_roughly(self._state)

    @cached_property
    def _solver(self) -> Callable[[Tensor], Tensor]:
        return self._group.gram_solver(self._state)

    @cached_property
    def _preconditioner(self) -> Callable[[Tensor], Tensor]:
        return self._group.gram_solver(self._state, rough=True)


class ScalingsBlock(Block):
    """All scaling groups of a component: one pass over each piece, and a Gram matrix of reduced squares.

    Args:
        tolerance: of the conjugate gradients that serve where nothing is factorised.
    """

    def __init__(
        self, groups: Sequence[ScalingGroup], state: State, tolerance: float, factorise: bool
    ) -> None:
        super().__init__(groups)
        # eliminated in this order, the many units of a layer leave few gains, and the factor stays sparse
        groups = sorted(groups, key=lambda group: -group.dim)
        self._tables = ScalingTables(groups, state)
        self._touched = [(touched, touched.piece.view(state)) for touched in touched_pieces(groups)]
        self._tolerance = tolerance
        diagonal = self._tables.gram_diagonal()
        # a dead unit has no generator
        self._alive = diagonal > 0
        self._diagonal = torch.where(self._alive, diagonal, torch.ones_like(diagonal))
        self._factor = self._factorise() if factorise else None

    def _factorise(self) -> SuperLU | None:
        if len(self._tables.groups) == 1:
            return None
        units = sum(self._tables.sizes)
        gram = self._tables.gram(units * (_MOST_BESIDE + 1) if self._tolerance > _LOOSE else None)
        if gram is None:
            return None
        diagonal = self._diagonal.cpu().numpy()
        gram.setdiag(diagonal)
        try:
            factor = splu(gram, "NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        except RuntimeError:  # exactly singular
            return None
        scale = np.empty_like(diagonal)
        scale[factor.perm_c] = diagonal
        # generators that depend on one another: conjugate gradients find a solution all the same
        return factor if bool((factor.U.diagonal() > _PIVOT * scale).all()) else None

    def adjoint(self, tangent: State) -> Tensor:
        parts = self._tables.split(self._tables.zeros())
        for touched, view in self._touched:
            product = touched.reduce(view * touched.piece.view(tangent))
            for member in touched.members:
                part = member.charge * touched.marginal(product, member)
                parts[member.group] = parts[member.group] + part
        return torch.cat([part.reshape(-1) for part in parts])

    def generate_(self, coefficients: Tensor, tangent: State) -> None:
        values = self._tables.split(coefficients)
        for touched, view in self._touched:
            factors = [
                touched.embed(m, (m.charge * values[m.group]).to(view.dtype), view.dim())
                for m in touched.members
            ]
            target = touched.piece.view(tangent)
            target.addcmul_(view, sum(factors[1:], factors[0]))

    def precondition(self, coefficients: Tensor) -> Tensor:
        return self.solve(coefficients) if self._factor is not None else coefficients / self._diagonal

    @cached_property
    def exact(self) -> bool:
        return self._factor is not None or len(self._tables.groups) == 1

    def solve(self, coefficients: Tensor) -> Tensor:
        right = torch.where(self._alive, coefficients, torch.zeros_like(coefficients))
        if self._factor is not None:
            return torch.from_numpy(self._factor.solve(right.cpu().numpy())).to(right.device)
        if len(self._tables.groups) == 1:
            return right / self._diagonal
        return conjugate_gradients(
            lambda x: [self._tables.gram_product(x[0], self._diagonal)],
            [right],
            lambda x: [x[0] / self._diagonal],
            self._tolerance,
        )[0]
