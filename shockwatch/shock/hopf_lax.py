"""One-dimensional inviscid evolution of a loss slice: Hopf-Lax, shocks and their strength (theory.md 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """``U(q, tau)`` and ``v = dU/dq`` on the grid.

    Attributes:
        positions: ``q``, ascending, shape ``(n,)``.
        values: ``U(q, tau) = min_y L(y) + (q - y)^2 / (2 tau)``, shape ``(n,)``.
        minimisers: the ``y`` that attains it, shape ``(n,)``.
        velocity: ``v = (q - y) / tau``, shape ``(n,)``.
    """

    positions: Array
    values: Array
    minimisers: Array
    velocity: Array


@dataclass(frozen=True)
class Shock:
    """First shock of a slice.

    Attributes:
        time: ``-1 / min L''``, inf where convex.
        place: where it forms: the point that the characteristic of least curvature has reached; NaN if none.
    """

    time: float
    place: float


def _checked(positions: Array, losses: Array) -> tuple[Array, Array]:
    q, loss = np.asarray(positions, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if q.ndim != 1 or q.shape != loss.shape or len(q) < 5 or not bool((np.diff(q) > 0.0).all()):
        raise ValueError(
            f"positions {q.shape}, losses {loss.shape}: need >= 5 ascending points and a loss at each"
        )
    return q, loss


def evolve(positions: Array, losses: Array, time: float) -> Profile:
    """Hopf-Lax at ``time`` > 0, ``O(n^2)``; minimisers between grid points by a parabola through three.

    Raises:
        ValueError: if the grid is not ascending with a loss at each of >= 5 points, or ``time`` is not
            positive.
    """
    q, loss = _checked(positions, losses)
    if not (0.0 < time < math.inf):
        raise ValueError(f"time={time!r}: must be positive and finite")
    cost = loss[None, :] + (q[:, None] - q[None, :]) ** 2 / (2.0 * time)
    best = cost.argmin(axis=1)
    rows = np.arange(len(q))
    inner = np.clip(best, 1, len(q) - 2)
    left, middle, right = cost[rows, inner - 1], cost[rows, inner], cost[rows, inner + 1]
    a, b = q[inner] - q[inner - 1], q[inner + 1] - q[inner]
    # Newton form of the parabola; its vertex is the minimiser where the minimum is interior
    first, second = (middle - left) / a, (right - middle) / b
    bend = (second - first) / (a + b)
    interior = (best == inner) & (bend > 0.0)
    slope = np.where(interior, (first * b + second * a) / (a + b), 0.0)
    shift = np.where(interior, -slope / (2.0 * np.where(interior, bend, 1.0)), 0.0)
    minimisers = q[best] + shift
    values = cost[rows, best] + 0.5 * slope * shift
    return Profile(positions=q, values=values, minimisers=minimisers, velocity=(q - minimisers) / time)


def first_shock(positions: Array, losses: Array) -> Shock:
    """Time and place of the first shock, from second differences.

    Raises:
        ValueError: as `evolve`.
    """
    q, loss = _checked(positions, losses)
    slopes = np.diff(loss) / np.diff(q)
    curvature = np.diff(slopes) / (0.5 * (q[2:] - q[:-2]))
    index = int(curvature.argmin())
    if curvature[index] >= 0.0:
        return Shock(math.inf, math.nan)
    time = -1.0 / float(curvature[index])
    velocity = 0.5 * (slopes[index] + slopes[index + 1])
    return Shock(time, float(q[index + 1] + time * velocity))


def strength(positions: Array, losses: Array, time: float) -> float:
    """Largest jump of ``v`` at ``time``: the gap between two tied minimisers over ``time``; 0 where smooth.

    None before the first shock, however steep; after it, a jump counts where the minimiser leaps over at
    least two grid cells more than the grid point moved.

    Raises:
        ValueError: as `evolve`.
    """
    profile = evolve(positions, losses, time)
    if time <= first_shock(positions, losses).time:
        return 0.0
    leaps = np.diff(profile.minimisers) - np.diff(profile.positions)
    index = int(leaps.argmax())
    cell = float(np.diff(profile.positions).max())
    return float(leaps[index]) / time if leaps[index] > 2.0 * cell else 0.0
