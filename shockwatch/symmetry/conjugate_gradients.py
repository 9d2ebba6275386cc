"""Conjugate gradients on vectors that come in parts (Hestenes & Stiefel 1952)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Parts = list[Tensor]

_MOST_STEPS = 500


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Inner product of two vectors in parts, accumulated in float64."""
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def conjugate_gradients(
    product: Callable[[Parts], Parts],
    right: Parts,
    precondition: Callable[[Parts], Parts],
    tolerance: float,
    floor: float = 0.0,
) -> Parts:
    """``x`` with ``A x = right`` for a positive semi-definite ``A``, ``right`` in its range.

    ``product`` may give further parts after those of its vector, linear in it: their values at ``x`` come after ``x``
    (none where it took no step).
    Ends when the preconditioned residual has fallen to ``tolerance`` of its first size, or to ``floor``: what is
    rounding need not be solved for, and where ``A`` is singular it need not lie in its range.
    """
    residual = right
    step = precondition(residual)
    solution = [torch.zeros_like(s) for s in step]
    direction = step
    further: Parts = []
    energy = dot(residual, step)
    target = max(tolerance**2 * energy, floor**2)
    for _ in range(_MOST_STEPS):
        if not energy > target:
            break
        image = product(direction)
        image, rest = image[: len(right)], image[len(right) :]
        curvature = dot(direction, image)
        if not curvature > 0:
            break
        rate = energy / curvature
        further = (
            [rate * y for y in rest]
            if not further
            else [f + rate * y for f, y in zip(further, rest, strict=True)]
        )
        solution = [x + rate * d for x, d in zip(solution, direction, strict=True)]
        residual = [r - rate * a for r, a in zip(residual, image, strict=True)]
        step = precondition(residual)
        energy, previous = dot(residual, step), energy
        direction = [s + energy / previous * d for s, d in zip(step, direction, strict=True)]
    return [*solution, *further]
