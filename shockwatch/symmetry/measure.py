"""The empirical measure of neurons, and Wasserstein-2 between two of them (mean-field limit; Chizat & Bach 2018).

A hidden axis of ``N`` units is the measure ``(1/N) sum_i delta(unit_i)``: what is left of the parameters once the
order of units is forgotten. For positively homogeneous units the scale is forgotten too: a unit is a direction of its
incoming weights, one of its outgoing weights, and the mass ``|in| |out|`` (theory.md 1, below table 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import eye, kron, vstack
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.groups import ListPermutation, Permutation

LIMIT = 1024
"""Most units of an assignment: it takes O(N^3) time, about 3 s here."""

_ROUNDING = 64.0  # units of rounding that inner products are trusted to

TRANSPORT_LIMIT = 128
"""Most units on a side where sizes or weights differ: the transport plan is a linear program in N M unknowns."""


@dataclass(frozen=True)
class Measure:
    """A discrete probability measure.

    Args:
        points: ``(n, d)``.
        weights: ``(n,)``, positive, of sum one; None: all equal.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """

    points: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.points.shape)
        if len(shape) != 2 or not shape[0] or not _finite(self.points):
            raise ValueError(f"points={shape}: must be a finite matrix (n, d) with n >= 1")
        if self.weights is None:
            return
        total = float(self.weights.sum())
        if tuple(self.weights.shape) != shape[:1] or bool((self.weights <= 0).any()):
            raise ValueError(f"weights={tuple(self.weights.shape)}: must be {shape[0]} positive numbers")
        if not math.isclose(total, 1.0, rel_tol=1e-9):
            raise ValueError(f"weights={total!r} in sum: must be a probability, of sum 1")


def neurons(incoming: Tensor, outgoing: Tensor, *, homogeneous: bool = False) -> Measure:
    """The empirical measure of the units between two maps.

    Args:
        incoming: ``(n, a)``, one row a unit, its bias as one more column.
        outgoing: ``(n, b)``.
        homogeneous: forget the scale that moves between both sides (ReLU): each side gets norm
            ``(|in| |out|)^(1/2)``, so that the squared norm of a point is twice the unit's mass. A dead unit is zero.
    """
    first, second = incoming.detach().double(), outgoing.detach().double()
    if homogeneous:
        a, b = first.norm(dim=1, keepdim=True), second.norm(dim=1, keepdim=True)
        root = (a * b).sqrt()
        alive = root > 0
        first = torch.where(alive, first * (root / a), torch.zeros_like(first))
        second = torch.where(alive, second * (root / b), torch.zeros_like(second))
    return Measure(torch.cat([first, second], 1))


def unit_measure(group: Permutation, state: State) -> Measure:
    """The empirical measure of the units that ``group`` reorders, at a canonical ``state``: all their weights.

    There the scale is fixed already; neighbouring layers keep their order.

    Raises:
        ValueError: if the order differs from head to head, so that there is no one measure.
    """
    if group.batch:
        raise ValueError(f"group={group.name}: must reorder one axis, not one for each head")
    parts = [
        group.unit_vectors(piece, state, position)[0]
        for piece in group.pieces
        if piece.trainable
        for position in piece.positions(group.units)
    ]
    if isinstance(group, ListPermutation):
        parts += group.members(state)
    return Measure(torch.cat([part.detach() for part in parts], 1))


def wasserstein(first: Measure, second: Measure) -> float:
    """Wasserstein-2 distance: the root of the least mean squared displacement that carries one into the other.

    Equal numbers of equally weighted points: an optimal assignment. Otherwise the transport linear program.

    Raises:
        ValueError: if the dimensions differ, or above ``LIMIT`` and ``TRANSPORT_LIMIT`` points.
    """
    n, m = len(first.points), len(second.points)
    uniform = first.weights is None and second.weights is None and n == m
    limit = LIMIT if uniform else TRANSPORT_LIMIT
    if max(n, m) > limit:
        raise ValueError(
            f"points={max(n, m)}: must be at most {limit}, the cost grows with their third power"
        )
    if uniform and (squares := _in_place(first.points, second.points)) is not None:
        return math.sqrt(float(squares.mean()))
    cost = _squares(first.points, second.points)
    if uniform:
        rows, columns = linear_sum_assignment(cost)
        return math.sqrt(max(float(cost[rows, columns].mean()), 0.0))
    supply, demand = _weights(first), _weights(second)
    marginals = vstack([kron(eye(n), np.ones((1, m))), kron(np.ones((1, n)), eye(m))], format="csr")
    plan = linprog(
        cost.reshape(-1),
        A_eq=marginals,
        b_eq=np.concatenate([supply, demand]),
        bounds=(0, None),
        method="highs",
    )
    if plan.status != 0:
        raise RuntimeError(f"the transport plan was not found: {plan.message}")
    return math.sqrt(max(float(plan.fun), 0.0))


def _in_place(first: Tensor, second: Tensor) -> Tensor | None:
    """Squared displacements where every point is nearest to its own: then nothing beats the identity; else None."""
    if first.shape != second.shape:
        return None
    own, *sizes = (p.square().sum(1, dtype=torch.float64) for p in (second - first, first, second))
    others = sizes[0][:, None] + sizes[1] - 2 * (first @ second.mT).double()
    others.fill_diagonal_(math.inf)
    # the products are rounded: what is left must stay clear of that
    slack = _ROUNDING * torch.finfo(first.dtype).eps * (sizes[0].max() + sizes[1].max())
    return own if bool((own + slack <= others.amin(1)).all()) else None


def _squares(first: Tensor, second: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"points={first.shape[1]} and {second.shape[1]} wide: must live in one space")
    # by differences: from inner products, near points would lose half their digits
    plain = torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")
    squares: np.ndarray[tuple[int, int], np.dtype[np.float64]] = plain.square().cpu().numpy()
    return squares


def _finite(points: Tensor) -> bool:
    # a sum that is no number, or overflows, tells that there may be such an entry
    return bool(torch.isfinite(points.sum())) or bool(torch.isfinite(points).all())


def _weights(measure: Measure) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    count = len(measure.points)
    weights = torch.full((count,), 1.0 / count) if measure.weights is None else measure.weights
    result: np.ndarray[tuple[int], np.dtype[np.float64]] = weights.double().cpu().numpy()
    result /= result.sum()
    return result
