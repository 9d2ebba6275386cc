"""One-dimensional inviscid evolution of a loss slice: Hopf-Lax and its shock fronts (theory.md 4)."""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline, make_interp_spline
from scipy.optimize import minimize_scalar, root

from shockwatch.errors import require_float

Array = npt.NDArray[np.float64]

LONGEST = sys.float_info.max  # any finite time
_CONVERGED = 1e-6  # of the residual that Newton's method starts with
_FINE = 1024  # points of the refined grid: enough to start Newton's method from


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


@dataclass(frozen=True)
class Front:
    """A shock at one time: two minimisers ``left < right`` of ``L(y) + (place - y)^2 / (2 tau)`` tie.

    Attributes:
        place: where ``v`` jumps.
        left, right: the two minimisers; what lies between them has been swallowed.
        time: ``tau``.
    """

    place: float
    left: float
    right: float
    time: float

    @property
    def jump(self) -> float:
        """``v_L - v_R``, positive."""
        return (self.right - self.left) / self.time

    @property
    def speed(self) -> float:
        """``(v_L + v_R) / 2`` (Rankine-Hugoniot)."""
        return (self.place - 0.5 * (self.left + self.right)) / self.time

    @property
    def entropy_production(self) -> float:
        """``jump^3 / 12``: the loss per unit time of the integral of ``v^2 / 2``."""
        return self.jump**3 / 12.0


def checked_slice(positions: Array, losses: Array) -> tuple[Array, Array]:
    """Both as float64 arrays.

    Raises:
        ValueError: if the grid is not ascending with a loss at each of >= 6 points.
    """
    q, loss = np.asarray(positions, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if q.ndim != 1 or q.shape != loss.shape or len(q) < 6 or not bool((np.diff(q) > 0.0).all()):
        raise ValueError(
            f"positions {q.shape}, losses {loss.shape}: need >= 6 ascending points and a loss at each"
        )
    return q, loss


def loss_spline(positions: Array, losses: Array) -> BSpline:
    """Quintic spline through the slice: its second derivative is accurate to fourth order in the spacing."""
    return make_interp_spline(positions, losses, k=5)


def evolve(positions: Array, losses: Array, time: float) -> Profile:
    """Hopf-Lax at ``time`` > 0, ``O(n^2)``; minimisers between grid points by a parabola through three.

    Raises:
        ValueError: if the grid is not ascending with a loss at each of >= 6 points, or ``time`` is not
            positive.
    """
    q, loss = checked_slice(positions, losses)
    require_float("time", time, 0.0, LONGEST, open_low=True)
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
    """Time and place of the first shock, from the spline through the slice.

    Raises:
        ValueError: as `evolve`.
    """
    q, loss = checked_slice(positions, losses)
    spline = loss_spline(q, loss)
    curvature = spline.derivative(2)
    index = 1 + int(curvature(q[1:-1]).argmin())  # at the very ends the spline is not bound on one side
    found = minimize_scalar(
        curvature,
        bounds=(q[index - 1], q[index + 1]),
        method="bounded",
        options={"xatol": 1e-9 * (q[-1] - q[0])},
    )
    lowest = min((float(curvature(x)), float(x)) for x in (found.x, q[index]))
    if lowest[0] >= 0.0:
        return Shock(math.inf, math.nan)
    time = -1.0 / lowest[0]
    return Shock(time, lowest[1] + time * float(spline.derivative()(lowest[1])))


def fronts(positions: Array, losses: Array, time: float) -> list[Front]:
    """All shocks at ``time``, from left to right; none before the first shock, however steep.

    The minimisers of ``L(y) + (q - y)^2 / (2 tau)`` over all ``q`` are the points where
    ``phi(y) = L(y) + y^2 / (2 tau)`` touches its convex hull; an edge of the hull is a shock, at ``tau`` times its
    slope. An edge counts from two grid cells on. One that ends on the border of the slice may go on outside: its
    jump is then a lower bound.

    Raises:
        ValueError: as `evolve`.
    """
    q, loss = checked_slice(positions, losses)
    require_float("time", time, 0.0, LONGEST, open_low=True)
    if time <= first_shock(q, loss).time:
        return []
    spline = loss_spline(q, loss)
    fine = np.linspace(q[0], q[-1], max(_FINE, 4 * len(q)))
    phi = spline(fine) + fine**2 / (2.0 * time)
    hull: list[int] = []
    for index in range(len(fine)):
        while len(hull) > 1 and _above(fine, phi, hull[-2], hull[-1], index):
            hull.pop()
        hull.append(index)
    cell = 2.0 * float(np.diff(q).max())
    edges = [(a, b) for a, b in itertools.pairwise(hull) if fine[b] - fine[a] > cell]
    return [_tangent(spline, fine, a, b, time) for a, b in edges]


def _above(x: Array, y: Array, first: int, middle: int, last: int) -> bool:
    """Whether the middle point lies on or above the line through the other two."""
    rise = (y[last] - y[first]) * (x[middle] - x[first])
    return bool((y[middle] - y[first]) * (x[last] - x[first]) >= rise)


def _tangent(spline: BSpline, x: Array, first: int, last: int, time: float) -> Front:
    """The line that touches ``phi`` at both ends, those inside polished by Newton's method.

    Whether that has converged is read off the residual: the solver's own word hangs on the last bit.
    """
    slope = spline.derivative()
    start: Array = np.array([x[first], x[last]])
    inside = np.array([first > 0, last < len(x) - 1])

    def chord(a: float, b: float) -> float:
        return float(spline(b) - spline(a)) / (b - a) + (a + b) / (2.0 * time)

    def ends(free: Array) -> Array:
        both: Array = start.copy()
        both[inside] = free
        return both

    def gap(free: Array) -> Array:
        both = ends(free)
        result: Array = (slope(both) + both / time - chord(*both))[inside]
        return result

    left, right = start
    if inside.any():
        solved = root(gap, start[inside], tol=1e-12)
        converged = abs(gap(solved.x)).max() <= _CONVERGED * abs(gap(start[inside])).max()
        if converged and abs(solved.x - start[inside]).max() < 2.0 * (x[1] - x[0]):
            left, right = ends(solved.x)
    return Front(time * chord(left, right), float(left), float(right), time)


def strength(positions: Array, losses: Array, time: float) -> float:
    """Largest jump of ``v`` at ``time``; 0 where smooth.

    Raises:
        ValueError: as `evolve`.
    """
    return max((front.jump for front in fronts(positions, losses, time)), default=0.0)


def tie_gap(positions: Array, losses: Array, time: float, place: float = 0.0) -> float:
    """Difference of the two lowest minima of ``L(y) + (place - y)^2 / (2 tau)``, in units of the loss.

    0: the two basins tie, a shock passes through ``place``. NaN where fewer than two lie inside the slice.

    Raises:
        ValueError: as `evolve`.
    """
    q, loss = checked_slice(positions, losses)
    require_float("time", time, 0.0, LONGEST, open_low=True)
    cost = make_interp_spline(q, loss + (place - q) ** 2 / (2.0 * time), k=5)
    fine = np.linspace(q[0], q[-1], max(_FINE, 4 * len(q)))
    values = cost(fine)
    inner = 1 + np.flatnonzero((values[1:-1] < values[:-2]) & (values[1:-1] <= values[2:]))
    minima = sorted(
        float(minimize_scalar(cost, bounds=(fine[i - 1], fine[i + 1]), method="bounded").fun) for i in inner
    )
    return minima[1] - minima[0] if len(minima) > 1 else math.nan
