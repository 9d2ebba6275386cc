"""A subspace that grows by products with a symmetric operator, and what the operator looks like inside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
Operator = Callable[[Tensor], Tensor]

_FIRST_ROWS = 32
_DEPENDENT = 1e-3  # a vector with less than this share outside the space would bring in rounding
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


class RitzSpace:
    """The span of every vector that was multiplied at one point; each product is kept and none is made twice.

    Args:
        operator: ``v -> P H v``, symmetric on the range of ``project``; shape ``(dim,)`` to ``(dim,)``.
        project: onto the horizontal space.
        like: any vector of the space: its length, type and device.
    """

    def __init__(self, operator: Operator, project: Operator, like: Tensor) -> None:
        self._operator, self._project = operator, project
        self._vectors = like.new_empty((0, like.numel()))
        self._images = like.new_empty((0, like.numel()))
        self._projected = np.zeros((0, 0))
        self._solved: tuple[Array, Array] | None = None
        self.products = 0

    def __len__(self) -> int:
        return len(self._projected)

    @property
    def basis(self) -> Tensor:
        """``V``, shape ``(m, dim)``."""
        return self._vectors[: len(self)]

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
        vector = combination(self.basis, coordinates)
        return vector.div(vector.norm())

    @property
    def newest_image(self) -> Tensor:
        """``P H v`` of the vector that came last: the way on in its Krylov space, shape ``(dim,)``."""
        return self._images[len(self) - 1]

    def residual(self, index: int) -> Tensor:
        """``H u - lambda u`` of a Ritz pair, shape ``(dim,)``."""
        values, coordinates = self.ritz()
        return self._moved_out(coordinates[:, index], values[index] * coordinates[:, index])

    def leak(self, coordinates: Array) -> float:
        """``|(1 - V^T V) H x|`` of the vector ``x`` with these coordinates."""
        return float(self._moved_out(coordinates, self._projected @ coordinates).norm())

    def _moved_out(self, coordinates: Array, inside: Array) -> Tensor:
        return combination(self._images[: len(self)], coordinates) - combination(self.basis, inside)

    def _outside(self, vector: Tensor) -> Tensor:
        return vector - (self.basis @ vector) @ self.basis

    def _join(self, vector: Tensor, image: Tensor) -> None:
        count = len(self)
        for _ in range(2):  # twice is enough (Parlett)
            known = self.basis @ vector
            vector = vector - known @ self.basis
            image = image - known @ self._images[:count]
            size = vector.norm()
            if float(size) < _DEPENDENT:
                return
            vector, image = vector / size, image / size
        if count == len(self._vectors):
            room = max(_FIRST_ROWS, 2 * count)
            self._vectors, self._images = (
                torch.cat([old, old.new_empty((room - count, old.shape[1]))])
                for old in (self._vectors, self._images)
            )
        self._vectors[count], self._images[count] = vector, image
        row = (self._vectors[: count + 1] @ image).double().cpu().numpy()
        self._projected = np.pad(self._projected, (0, 1))
        self._projected[count, :], self._projected[:, count] = row, row
        self._solved = None
