"""The two ends of a spectrum by Rayleigh-Ritz, helped by what an earlier point has shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from shockwatch.curvature.ritz import Array, RitzSpace, combination
from shockwatch.errors import require_float, require_positive_int

_ERROR_FLOOR = 1e-3  # an eigenvalue is never asked to better than tolerance * this share of the spread
_GAP_CEILING = (
    0.5  # of |lambda|: the next Ritz value overstates the gap as long as it has not converged itself
)
_BULK = 1e-3  # where most of the spectrum is thought to lie, as a share of the spread
_NEAREST = 1e-4  # the same for the least distance of a recycled value
_LEAST_COLD = 24  # products where nothing is recycled: a small residual may belong to another eigenvalue
_RITZ_EVERY = 16  # a large space is solved once in this share of its size, with plain Krylov steps between
_CANCELLED = 1e-2
_KEPT_BYTES = 1 << 30
_MOST_KEPT = 20


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """The two ends of the spectrum of ``P H P`` on the horizontal space.

    Attributes:
        lambda_min, lambda_max: Ritz values.
        vector_min, vector_max: unit Ritz vectors, shape ``(dim,)``.
        residual_min, residual_max: ``|H u - lambda u|``: an eigenvalue lies within this distance.
        products: Hessian-vector products spent beyond those the space came with.
    """

    lambda_min: float
    lambda_max: float
    vector_min: Tensor
    vector_max: Tensor
    residual_min: float
    residual_max: float
    products: int


Demand = Callable[[RitzSpace], tuple[float, Tensor | None]]
"""How far a space is from what is wanted of it besides the two ends, 1 or less: no more is wanted; and the vector,
orthogonal to the space, that would help most."""


@dataclass(frozen=True)
class Recycled:
    """Ritz pairs of an earlier point: a model of the operator that costs no product.

    Attributes:
        values: ascending, shape ``(k,)``.
        vectors: orthonormal rows, shape ``(k, dim)``; two at each end belong to the ends of the spectrum.
    """

    values: Array
    vectors: Tensor

    @classmethod
    def of(cls, space: RitzSpace) -> Recycled:
        """The pairs of largest ``|value|``, and two at each end; at most 20 and one GiB, but always the four."""
        values, coordinates = space.ritz()
        fit = _KEPT_BYTES // max(1, space.vector(coordinates[:, 0]).nbytes)
        room = max(4, min(_MOST_KEPT, fit))
        order = sorted(range(len(values)), key=lambda i: -abs(values[i]))
        ends = _ends(len(values))
        kept = sorted({*ends, *[i for i in order if i not in ends][: room - len(ends)]})
        return cls(values[kept], space.combination(coordinates[:, kept].T))

    def correction(self, residual: Tensor, value: float, spread: float) -> Tensor:
        """``(H - value)^-1 r`` with the operator of the earlier point (Davidson), shape ``(dim,)``.

        A residual is mostly made of directions of large curvature, which are long known; what is looked for has little.
        """
        inside = self.vectors @ residual
        rest = (residual - inside @ self.vectors) / (abs(value) + _BULK * spread)
        distance = abs(self.values - value).clip(min=1e-2 * abs(value) + _NEAREST * spread)
        return rest + combination(self.vectors, inside.double().cpu().numpy() / distance)


def extreme_eigenvalues(
    space: RitzSpace,
    *,
    recycled: Recycled | None = None,
    tolerance: float = 1e-2,
    max_products: int = 60,
    demand: Demand | None = None,
) -> ExtremeEigenvalues:
    """Both ends of the spectrum, by extending ``space`` until their estimated errors are small.

    What the space and the recycled vectors have no part in is not found: let it hold a random vector, better a Krylov
    space of one. Each round adds the residual of the end that is worse off, corrected by the recycled pairs (Davidson
    1975), or what ``demand`` asks for, if that is further from being met. It stops when the error of both ends,
    ``min(r, r^2 / gap)``, is below ``tolerance * max(|lambda|, spread / 1000)`` and the demand met, when the space is
    invariant, or at ``max_products``.

    Args:
        space: not empty; it grows.
        recycled: of a point nearby.
        tolerance: relative accuracy.
        max_products: of the space, those it came with included.
        demand: what else the space shall hold.

    Raises:
        ValueError: for arguments out of range, an empty space, or curvature that is not finite.
    """
    require_float("tolerance", tolerance, 0.0, 1.0, open_low=True)
    require_positive_int("max_products", max_products)
    if len(space) == 0:
        raise ValueError(
            "space: is empty, must hold one vector or more; the horizontal space may have dimension zero"
        )
    before = space.products
    least = 0 if recycled is not None else _LEAST_COLD
    if recycled is not None:
        # two at each end: the second may have overtaken the first
        for index in _ends(len(recycled.vectors)):
            if space.products < max_products:
                space.add(recycled.vectors[index])
    while space.products < max_products:
        worst, residual, error = _worse_end(space, tolerance)
        missing, wanted = demand(space) if demand is not None else (0.0, None)
        if max(error, missing) <= 1.0 and space.products - before >= least:
            break
        if wanted is not None and missing > error and space.add(wanted, horizontal=True):
            continue
        value, spread = _value(space, worst)
        corrected = (
            recycled.correction(residual, value, spread) if recycled is not None and worst == 0 else None
        )
        # a small residual is the difference of two large vectors: what rounding put outside is large in it
        clean = float(residual.norm()) > _CANCELLED * abs(value)
        if not (corrected is not None and space.add(corrected)) and not space.add(residual, horizontal=clean):
            break
        for _ in range(min(len(space) // _RITZ_EVERY, max_products - space.products)):
            if not space.add(space.newest_image, horizontal=True):
                break
    values, coordinates = space.ritz()
    sizes = space.residuals((0, -1)).norm(dim=1).tolist()
    return ExtremeEigenvalues(
        lambda_min=float(values[0]),
        lambda_max=float(values[-1]),
        vector_min=space.vector(coordinates[:, 0]),
        vector_max=space.vector(coordinates[:, -1]),
        residual_min=sizes[0],
        residual_max=sizes[1],
        products=space.products - before,
    )


def ritz_error(values: Array, end: int, residual: float) -> float:
    """Estimate ``min(r, r^2 / gap)`` of the error of the Ritz value at ``end``, 0 or -1, of ascending ``values``."""
    value, neighbour = float(values[end]), (1 if end == 0 else -2) % len(values)
    gap = min(abs(float(values[neighbour]) - value), _GAP_CEILING * abs(value))
    return min(residual, residual**2 / gap) if gap > 0.0 else residual


def _ends(count: int) -> list[int]:
    """Two indices at each end, as far as there are so many."""
    return list(dict.fromkeys(i % count for i in (0, -1, 1, -2)))


def _value(space: RitzSpace, end: int) -> tuple[float, float]:
    values, _ = space.ritz()
    return float(values[end]), float(values[-1] - values[0])


def _worse_end(space: RitzSpace, tolerance: float) -> tuple[int, Tensor, float]:
    """Which end of the spectrum, 0 or -1, is worse off, its residual, and its error over what is allowed."""
    values, _ = space.ritz()
    spread = float(values[-1] - values[0])
    errors, residuals = {}, dict(zip((0, -1), space.residuals((0, -1)), strict=True))
    for end, residual in residuals.items():
        error = ritz_error(values, end, float(residual.norm()))
        allowed = tolerance * max(abs(float(values[end])), _ERROR_FLOOR * spread)
        errors[end] = error / allowed if allowed > 0.0 else (math.inf if error > 0.0 else 0.0)
    worst = max(errors, key=lambda end: errors[end])
    return worst, residuals[worst], errors[worst]
