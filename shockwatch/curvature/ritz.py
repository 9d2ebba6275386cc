"""A subspace that grows by products with a symmetric operator, and what the operator looks like inside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
Operator = Callable[[Tensor], Tensor]

_BLOCK_ROWS = 8
_DEPENDENT = 1e-3  # a vector with less than this share outside the space would bring in rounding
_ROUNDING = 32.0  # units of rounding up to which two unit vectors count as orthogonal
LITTLE = 0.7  # share of its length that a vector keeps where the removal of others cost it no digits
_CANCELLED = 1e-1  # below this share rounding outside the horizontal space has been magnified


class Subspace(Protocol):
    """Orthonormal ``V`` (rows) with ``V H V^T`` known."""

    @property
    def basis(self) -> Tensor:
        """``V``, shape ``(m, dim)``."""
        ...

    @property
    def projected(self) -> Array:
        """``V H V^T``, shape ``(m, m)``."""
        ...

    def ritz(self) -> tuple[Array, Array]:
        """Ritz values, ascending, shape ``(m,)``, and their coordinates in the basis, shape ``(m, m)``."""
        ...

    def vector(self, coordinates: Array) -> Tensor:
        """The unit vector with these coordinates, shape ``(dim,)``."""
        ...

    def leak(self, coordinates: Array) -> float:
        """``|(1 - V^T V) H x|`` of the vector ``x`` with these coordinates: what the operator moves out."""
        ...


def combination(basis: Tensor, coordinates: Array) -> Tensor:
    """``coordinates @ basis``, shape ``(dim,)``."""
    weights = torch.as_tensor(coordinates, dtype=basis.dtype, device=basis.device)
    result: Tensor = weights @ basis
    return result


class _Rows:
    """Vectors kept in blocks of a few: to grow, none has to be copied."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._blocks: list[Tensor] = []
        self._count = 0

    def __getitem__(self, index: int) -> Tensor:
        return self._blocks[index // _BLOCK_ROWS][index % _BLOCK_ROWS]

    def append(self, vector: Tensor) -> Tensor:
        """Keep a copy; returns it, to be changed in place."""
        if self._count == _BLOCK_ROWS * len(self._blocks):
            self._blocks.append(self._like.new_empty((_BLOCK_ROWS, self._like.numel())))
        self._count += 1
        return self[self._count - 1].copy_(vector)

    def drop(self) -> None:
        """Forget the row that came last."""
        self._count -= 1

    def filled(self, count: int | None = None) -> list[Tensor]:
        """The first ``count`` rows, all if None, by blocks."""
        count = self._count if count is None else count
        starts = range(0, count, _BLOCK_ROWS)
        return [block[: count - start] for start, block in zip(starts, self._blocks, strict=False)]

    def inner(self, vector: Tensor, count: int | None = None) -> Tensor:
        """Product of every row with ``vector``, shape ``(m,)``."""
        parts = [block @ vector for block in self.filled(count)]
        return torch.cat(parts) if parts else vector.new_empty(0)

    def subtract_(self, vector: Tensor, weights: Tensor) -> Tensor:
        """``vector -= weights @ rows`` in place, over as many rows as there are weights."""
        for block, part in zip(self.filled(len(weights)), torch.split(weights, _BLOCK_ROWS), strict=False):
            vector.addmv_(block.T, part, alpha=-1.0)
        return vector

    def combine(self, weights: Tensor) -> Tensor:
        """``weights @ rows``; ``weights`` have shape ``(m,)`` or ``(k, m)``."""
        rows = weights if weights.ndim > 1 else weights[None]
        total = self._like.new_zeros((len(rows), self._like.numel()))
        for block, part in zip(self.filled(), torch.split(rows, _BLOCK_ROWS, 1), strict=False):
            total.addmm_(part, block)
        return total if weights.ndim > 1 else total[0]


class RitzSpace:
    """The span of every vector that was multiplied at one point; each product is kept and none is made twice.

    Args:
        operator: ``v -> P H v``, symmetric on the range of ``project``; shape ``(dim,)`` to ``(dim,)``.
        project: onto the horizontal space.
        like: any vector of the space: its length, type and device.
    """

    def __init__(self, operator: Operator, project: Operator, like: Tensor) -> None:
        self._operator, self._project, self._like = operator, project, like
        self._vectors, self._images = _Rows(like), _Rows(like)
        self._projected = np.zeros((0, 0))
        self._solved: tuple[Array, Array] | None = None
        self.products = 0

    def __len__(self) -> int:
        return len(self._projected)

    @property
    def basis(self) -> Tensor:
        """``V``, shape ``(m, dim)``: a copy."""
        return torch.cat(self._vectors.filled())

    @property
    def projected(self) -> Array:
        """``V H V^T``, shape ``(m, m)``."""
        return self._projected

    def multiply(self, vector: Tensor) -> Tensor:
        """``P H v`` of a horizontal unit vector; ``v`` joins the space.

        Raises:
            ValueError: if the operator returns a vector that is not finite.
        """
        image = self._operator(vector)
        self.products += 1
        size = float(image.norm())
        if not math.isfinite(size):
            raise ValueError(f"operator returned a vector of norm {size!r}: curvature is not finite here")
        self._join(vector, image)
        return image

    def add(self, vector: Tensor, *, horizontal: bool = False) -> bool:
        """Extend the space by a vector, for one product; False, and no product, where it lies inside.

        It is projected first, unless it is said to be ``horizontal`` already.
        """
        if not horizontal:
            vector = self._project(vector)
        size = float(vector.norm())
        if not 0.0 < size < math.inf:
            return False
        vector = self._outside(vector / size)
        share = float(vector.norm())
        if share < _DEPENDENT:
            return False
        if share < _CANCELLED:
            vector = self._project(vector)
        if share < LITTLE:
            vector = self._outside(vector / vector.norm())
        self.multiply(vector / vector.norm())
        return True

    def ritz(self) -> tuple[Array, Array]:
        """Ritz values, ascending, shape ``(m,)``, and their coordinates in the basis, shape ``(m, m)``."""
        if self._solved is None:
            values, coordinates = np.linalg.eigh(self._projected)
            self._solved = values, coordinates
        return self._solved

    def vector(self, coordinates: Array) -> Tensor:
        """The unit vector with these coordinates, shape ``(dim,)``."""
        vector = self.combination(coordinates)
        return vector.div(vector.norm())

    def combination(self, coordinates: Array) -> Tensor:
        """``coordinates @ V``, shape ``(dim,)``, or ``(k, dim)`` for coordinates of shape ``(k, m)``."""
        return self._vectors.combine(self._weights(coordinates))

    @property
    def newest_image(self) -> Tensor:
        """``P H v`` of the vector that came last: the way on in its Krylov space, shape ``(dim,)``."""
        return self._images[len(self) - 1]

    def residuals(self, indices: Sequence[int]) -> Tensor:
        """``H u - lambda u`` of Ritz pairs, shape ``(k, dim)``."""
        values, coordinates = self.ritz()
        chosen = coordinates[:, indices].T
        return self._moved_out(chosen, values[indices, None] * chosen)

    def leak(self, coordinates: Array) -> float:
        """``|(1 - V^T V) H x|`` of the vector ``x`` with these coordinates."""
        return float(self.moved_out(coordinates).norm())

    def moved_out(self, coordinates: Array) -> Tensor:
        """``(1 - V^T V) H x`` of the vector ``x`` with these coordinates, shape ``(dim,)``."""
        return self._moved_out(coordinates, self._projected @ coordinates)

    def coordinates(self, vector: Tensor) -> Array:
        """``V x``: those of the part of ``vector`` inside the space, shape ``(m,)``."""
        return self._vectors.inner(vector).double().cpu().numpy()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_operator": None, "_project": None}  # what is known outlives the operator

    def _moved_out(self, coordinates: Array, inside: Array) -> Tensor:
        return self._images.combine(self._weights(coordinates)) - self.combination(inside)

    def _weights(self, coordinates: Array) -> Tensor:
        like = self._like
        return torch.as_tensor(coordinates, dtype=like.dtype, device=like.device)

    def _outside(self, vector: Tensor) -> Tensor:
        return self._vectors.subtract_(vector.clone(), self._vectors.inner(vector))

    def _join(self, vector: Tensor, image: Tensor) -> None:
        count = len(self)
        rounding = _ROUNDING * torch.finfo(vector.dtype).eps
        vector, image = self._vectors.append(vector), self._images.append(image)
        known = self._vectors.inner(vector, count)
        # the vectors of one Krylov space come orthogonal; others once, and twice (Parlett) where little is left
        while count and float(known.abs().max()) > rounding:
            self._vectors.subtract_(vector, known)
            self._images.subtract_(image, known)
            size = float(vector.norm())
            if size < _DEPENDENT:
                self._vectors.drop()
                self._images.drop()
                return
            vector.div_(size)
            image.div_(size)
            if size > LITTLE:
                break
            known = self._vectors.inner(vector, count)
        row = self._vectors.inner(image).double().cpu().numpy()
        self._projected = np.pad(self._projected, (0, 1))
        self._projected[count, :], self._projected[:, count] = row, row
        self._solved = None
