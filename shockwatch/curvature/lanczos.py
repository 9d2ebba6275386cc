"""Lanczos iteration: a Krylov basis of a symmetric operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from shockwatch.curvature.ritz import LITTLE, Array, Operator, combination
from shockwatch.errors import require_positive_int


@dataclass(frozen=True)
class Krylov:
    """``H V = V T + beta r e_m^T`` with orthonormal rows of ``basis``.

    Attributes:
        basis: shape ``(m, dim)``.
        diagonal: ``T_ii``, shape ``(m,)``.
        off_diagonal: ``T_{i,i+1}``, shape ``(m - 1,)``.
        remainder: ``beta``; 0 where the basis spans an invariant subspace.
    """

    basis: Tensor
    diagonal: Array
    off_diagonal: Array
    remainder: float

    def ritz(self) -> tuple[Array, Array]:
        """Ritz values, ascending, shape ``(m,)``, and their coordinates in the basis, shape ``(m, m)``."""
        if len(self.diagonal) == 1:
            return self.diagonal.copy(), np.ones((1, 1))
        values, coordinates = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return values, coordinates

    def vector(self, coordinates: Array) -> Tensor:
        """The unit vector with these coordinates, shape ``(dim,)``."""
        vector = combination(self.basis, coordinates)
        return vector.div(vector.norm())

    @property
    def projected(self) -> Array:
        """``T``, shape ``(m, m)``."""
        beside: Array = np.diag(self.off_diagonal, 1)
        tridiagonal: Array = np.diag(self.diagonal) + beside + beside.T
        return tridiagonal

    def leak(self, coordinates: Array) -> float:
        """``|(1 - V^T V) H x|`` of the vector ``x`` with these coordinates."""
        return self.remainder * abs(float(coordinates[-1]))


def krylov(
    operator: Operator,
    start: Tensor,
    steps: int,
    *,
    project: Operator | None = None,
    stop: Callable[[Krylov], bool] | None = None,
) -> Krylov:
    """Lanczos with full reorthogonalisation from ``start`` (any length but zero), shape ``(dim,)``.

    ``project`` keeps rounding from leaking out of the horizontal space; ``stop`` may end the iteration early.

    Raises:
        ValueError: if ``start`` is zero or not finite, or the operator returns a value that is not finite.
    """
    require_positive_int("steps", steps)
    norm = float(start.norm())
    if not (math.isfinite(norm) and norm > 0.0):
        raise ValueError(f"start has norm {norm!r}: Lanczos needs a finite, non-zero start")
    epsilon = torch.finfo(start.dtype).eps
    basis = torch.empty((min(steps, start.numel()), start.numel()), dtype=start.dtype, device=start.device)
    vector = start / norm
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    scale = 0.0
    for index in range(len(basis)):
        basis[index] = vector
        known = basis[: index + 1]
        image = operator(vector)
        size = float(image.norm())
        if not math.isfinite(size):
            raise ValueError(f"operator returned a vector of norm {size!r}: curvature is not finite here")
        scale = max(scale, size)
        diagonal.append(float(vector @ image))
        image = torch.sub(image, vector, alpha=diagonal[-1])
        if index:
            image.sub_(basis[index - 1], alpha=off_diagonal[-1])
        remainder = float(image.norm())
        for _ in range(2):  # twice is enough (Parlett), and once where little was left to remove
            before = remainder
            image.addmv_(known.T, known @ image, alpha=-1.0)
            remainder = float(image.norm())
            if remainder > LITTLE * before:
                break
        if project is not None and remainder < 1e-2 * size:
            # cancellation has magnified what rounding put outside the horizontal space
            image = project(image)
            image.addmv_(known.T, known @ image, alpha=-1.0)
            remainder = float(image.norm())
        if remainder <= 10.0 * epsilon * scale * math.sqrt(start.numel()) or scale == 0.0:
            remainder = 0.0
        state = Krylov(known, np.array(diagonal), np.array(off_diagonal), remainder)
        if remainder == 0.0 or index + 1 == len(basis) or (stop is not None and stop(state)):
            break
        off_diagonal.append(remainder)
        vector = image / remainder
    return state
