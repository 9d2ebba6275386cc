"""Lanczos iteration: a Krylov basis of a symmetric operator, and the two ends of its spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from shockwatch.errors import require_float, require_positive_int

Array = npt.NDArray[np.float64]
Operator = Callable[[Tensor], Tensor]

_RANDOM_SHARE = 1.0  # norm of the random part of a start against the known part: enough to find what is new
# a warm start looks converged at once; a new, lower eigenvalue needs some products to show
_LEAST_PRODUCTS = 12
_ERROR_FLOOR = 1e-2  # an eigenvalue is never asked to better than tolerance * this share of the spread


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
        weights = torch.as_tensor(coordinates, dtype=self.basis.dtype, device=self.basis.device)
        vector: Tensor = weights @ self.basis
        return vector.div(vector.norm())


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """The two ends of the spectrum of ``P H P`` on the horizontal space.

    Attributes:
        lambda_min, lambda_max: Ritz values.
        vector_min, vector_max: unit Ritz vectors, shape ``(dim,)``.
        residual_min, residual_max: ``|H u - lambda u|``: an eigenvalue lies within this distance.
        products: Hessian-vector products spent.
    """

    lambda_min: float
    lambda_max: float
    vector_min: Tensor
    vector_max: Tensor
    residual_min: float
    residual_max: float
    products: int


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
        for _ in range(2):  # twice is enough (Parlett)
            image = image - (known @ image) @ known
        remainder = float(image.norm())
        if project is not None and remainder < 1e-2 * size:
            # cancellation has magnified what rounding put outside the horizontal space
            image = project(image)
            image = image - (known @ image) @ known
            remainder = float(image.norm())
        if remainder <= 10.0 * epsilon * scale * math.sqrt(start.numel()) or scale == 0.0:
            remainder = 0.0
        state = Krylov(known, np.array(diagonal), np.array(off_diagonal), remainder)
        if remainder == 0.0 or index + 1 == len(basis) or (stop is not None and stop(state)):
            break
        off_diagonal.append(remainder)
        vector = image / remainder
    return state


def extreme_eigenvalues(
    operator: Operator,
    dim: int,
    *,
    project: Operator,
    generator: torch.Generator,
    known: Sequence[Tensor] = (),
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    tolerance: float = 1e-2,
    max_products: int = 60,
) -> ExtremeEigenvalues:
    """Both ends of the spectrum of a symmetric operator on the range of ``project``.

    The start mixes ``known`` vectors (earlier Ritz vectors, the gradient) with a random horizontal one, so
    that a direction orthogonal to all known ones is found too. Stops when the estimated error of each end,
    ``min(r, r^2 / gap)``, is below ``tolerance * max(|lambda|, spread / 100)``, or at ``max_products``.

    Raises:
        ValueError: for arguments out of range, or a horizontal space of dimension zero.
    """
    require_positive_int("dim", dim)
    require_float("tolerance", tolerance, 0.0, 1.0, open_low=True)
    noise = project(torch.randn(dim, generator=generator, dtype=dtype, device=generator.device).to(device))
    size = float(noise.norm())
    if size == 0.0:
        raise ValueError(
            f"dim={dim}: the horizontal space has dimension zero, there is no curvature to measure"
        )
    start = noise / size
    directions = [project(v.to(dtype=dtype, device=device)) for v in known]
    directions = [v / v.norm() for v in directions if 0.0 < float(v.norm()) < math.inf]
    if directions:
        mixed = torch.stack(directions).sum(0)
        start = mixed / mixed.norm().clamp_min(1e-3) + _RANDOM_SHARE * start

    def converged(state: Krylov) -> bool:
        count = len(state.diagonal)
        if count < min(_LEAST_PRODUCTS, dim):
            return False
        values, coordinates = state.ritz()
        spread = float(values[-1] - values[0])
        for end, neighbour in ((0, 1), (-1, -2)):
            residual = abs(state.remainder * coordinates[-1, end])
            gap = abs(float(values[neighbour] - values[end])) if count > 1 else 0.0
            error = min(residual, residual**2 / gap) if gap > 0.0 else residual
            if error > tolerance * max(abs(float(values[end])), _ERROR_FLOOR * spread):
                return False
        return True

    state = krylov(operator, start, max_products, project=project, stop=converged)
    values, coordinates = state.ritz()
    return ExtremeEigenvalues(
        lambda_min=float(values[0]),
        lambda_max=float(values[-1]),
        vector_min=state.vector(coordinates[:, 0]),
        vector_max=state.vector(coordinates[:, -1]),
        residual_min=abs(state.remainder * float(coordinates[-1, 0])),
        residual_max=abs(state.remainder * float(coordinates[-1, -1])),
        products=len(state.diagonal),
    )
