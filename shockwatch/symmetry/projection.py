"""Horizontal projection: remove from a tangent vector what runs along the orbits (theory.md 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.groups.base import ContinuousGroup

_MOST_STEPS = 500

Coefficients = list[Tensor]


def _dot(a: Coefficients, b: Coefficients) -> float:
    return float(sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True)))


def _adjoint(groups: Sequence[ContinuousGroup], state: State, tangent: State) -> Coefficients:
    return [group.adjoint(state, tangent) for group in groups]


def _solve_gram(groups: Sequence[ContinuousGroup], state: State, vector: Coefficients) -> Coefficients:
    return [group.solve_gram(v, state) for group, v in zip(groups, vector, strict=True)]


def vertical(groups: Sequence[ContinuousGroup], state: State, coefficients: Coefficients) -> State:
    """The vertical vector with the given Lie-algebra coefficients."""
    result = {name: torch.zeros_like(state[name]) for g in groups for name in g.parameters}
    for group, c in zip(groups, coefficients, strict=True):
        group.generate_(c, state, result)
    return result


def remove_vertical(
    groups: Sequence[ContinuousGroup], state: State, tangent: State, overlapping: bool
) -> State:
    """``tangent`` minus its projection on the span of the generators at ``state``.

    Solves ``G^T G c = G^T t`` by conjugate gradients, preconditioned with each group's own inverse Gram matrix
    (exact in one step where groups share no tensor).
    """
    result = dict(tangent)
    if not groups:
        return result
    dtype = next(iter(tangent.values())).dtype
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    residual = _adjoint(groups, state, tangent)
    step = _solve_gram(groups, state, residual)
    solution = step if not overlapping else [torch.zeros_like(s) for s in step]
    if overlapping:
        direction = [s.clone() for s in step]
        energy = _dot(residual, step)
        target = tolerance**2 * energy
        for _ in range(_MOST_STEPS):
            if not energy > target:
                break
            image = _adjoint(groups, state, vertical(groups, state, direction))
            curvature = _dot(direction, image)
            if not curvature > 0:
                break
            rate = energy / curvature
            solution = [x + rate * d for x, d in zip(solution, direction, strict=True)]
            residual = [r - rate * a for r, a in zip(residual, image, strict=True)]
            step = _solve_gram(groups, state, residual)
            energy, previous = _dot(residual, step), energy
            direction = [s + energy / previous * d for s, d in zip(step, direction, strict=True)]
    for name, part in vertical(groups, state, solution).items():
        if name in result:
            result[name] = result[name] - part
    return result
