"""The loss along one line through the canonical point: sampled, smoothed, and timed (theory.md 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.integrate import trapezoid

from shockwatch.pace import Pace

Array = npt.NDArray[np.float64]

_FIRST_DROP = (
    1e-3  # the first step aims at this share of the loss: far above float32 rounding, far below a transition
)
_GROWTH = 1.4  # ratio of successive steps outwards: the steepest point is bracketed to 40 % and then refined
_HALF = 10  # grid points on each side of the point
_DEGREE = 8  # of the polynomial that carries everything beyond the known slope and curvature


@dataclass(frozen=True)
class LossSlice:
    """``L(q + s u)`` for a unit direction ``u`` along which the loss falls at first.

    Attributes:
        positions: ``s``, ascending and symmetric about 0, shape ``(n,)``.
        losses: shape ``(n,)``.
        slope: ``dL/ds`` at 0, not positive.
        curvature: ``d2L/ds2`` at 0, negative.
        coefficients: of ``s^3, s^4, ...`` (``s`` in units of the last position) for ``s >= 0``.
        bracketed: whether the steepest descent lies inside the sampled range.
    """

    positions: Array
    losses: Array
    slope: float
    curvature: float
    coefficients: Array
    bracketed: bool

    @property
    def reach(self) -> float:
        """The last position."""
        return float(self.positions[-1])

    def slope_at(self, positions: Array) -> Array:
        """``dL/ds`` of the smoothed slice at positions in ``[0, reach]``, same shape."""
        x = positions / self.reach
        tail = np.zeros_like(x)
        for index, coefficient in enumerate(self.coefficients):
            tail += (index + 3) * coefficient * x ** (index + 2) / self.reach
        result: Array = self.slope + self.curvature * positions + tail
        return result

    @property
    def relative_drop(self) -> float:
        """Largest fall of the sampled loss below its value here, over its magnitude here (not negative)."""
        here = float(self.losses[len(self.losses) // 2])
        fall = max(0.0, here - float(self.losses.min()))
        return fall / abs(here) if here != 0.0 else math.inf if fall > 0.0 else 0.0


def take_slice(loss: Callable[[float], float], slope: float, curvature: float) -> LossSlice | None:
    """Walk downhill until the descent has been steepest, then sample both sides evenly.

    Args:
        loss: ``s -> L(q + s u)``; about 45 calls, forward passes only.
        slope: ``<g, u>``, not positive.
        curvature: ``<u, H u>``, negative.

    Returns:
        The slice; ``None`` where the loss turns up before any of it is carried away, or is not finite.

    Raises:
        ValueError: if ``slope`` is positive or ``curvature`` is not negative.
    """
    if not (slope <= 0.0 and curvature < 0.0):
        raise ValueError(
            f"slope={slope!r}, curvature={curvature!r}: a slice starts downhill at a concave point"
        )
    here = loss(0.0)
    scale = abs(here) if here != 0.0 else 1.0
    # s with |slope| s + |curvature| s^2 / 2 = wanted drop
    step = 2.0 * _FIRST_DROP * scale / (-slope + math.sqrt(slope**2 - 2.0 * curvature * _FIRST_DROP * scale))
    for _ in range(7):
        first = loss(step)
        expected = -slope * step - 0.5 * curvature * step**2
        if math.isfinite(first) and here - first > 0.5 * expected:
            break
        step /= 3.0
    else:
        return None
    points, values = [0.0, step], [here, first]
    steepest, bracketed = (here - first) / step, False
    for _ in range(40):
        points.append(points[-1] * _GROWTH)
        values.append(loss(points[-1]))
        if not math.isfinite(values[-1]):
            return None
        descent = (values[-2] - values[-1]) / (points[-1] - points[-2])
        if descent < 0.8 * steepest:
            bracketed = True
            break
        steepest = max(steepest, descent)
    reach = points[-1]
    grid = reach * np.arange(-_HALF, _HALF + 1) / _HALF
    sampled = np.array(
        [loss(float(s)) if s not in (0.0, reach) else (here if s == 0.0 else values[-1]) for s in grid]
    )
    if not bool(np.isfinite(sampled).all()):
        return None
    ahead = np.concatenate([grid[_HALF + 1 :], points[1:-1]])
    losses = np.concatenate([sampled[_HALF + 1 :], values[1:-1]])
    rest = losses - here - slope * ahead - 0.5 * curvature * ahead**2
    powers = (ahead / reach)[:, None] ** np.arange(3, _DEGREE + 1)[None, :]
    coefficients = np.linalg.lstsq(powers, rest, rcond=None)[0]
    return LossSlice(grid, sampled, slope, curvature, np.asarray(coefficients), bracketed)


def time_to_steepest(loss_slice: LossSlice, pace: Pace | None = None) -> tuple[float, float]:
    """Training time that ``ds/dt = -dL/ds`` takes from 0 to the steepest point, and that point.

    With ``pace`` it is the time the optimiser takes, which lags behind the flow where the mode grows fast: with
    ``x = log(s + s0)`` the flow has ``dx/dt = r``, and the optimiser ``rho = r lag(r)``; as its growth trails a
    changing one by ``delay(r)`` steps, ``t = int dx / rho + int delay(r) time_per_step d log(rho)``.

    ``(nan, nan)`` where the slope is zero at the start, no steepest point is bracketed, or the descent stops
    before it. Source: theory.md 5, arrival forecast.
    """
    missing = (math.nan, math.nan)
    if not loss_slice.bracketed or loss_slice.slope == 0.0:
        return missing
    # s + s0 grows like exp(-curvature t) at first: even steps in its logarithm resolve every decade of the
    # growth
    origin = loss_slice.slope / loss_slice.curvature
    x = np.linspace(0.0, math.log1p(loss_slice.reach / origin), 801)
    s = origin * np.expm1(x)
    s[-1] = loss_slice.reach
    descent = -loss_slice.slope_at(s)
    peak = int(descent.argmax())
    if peak in (0, len(s) - 1) or bool((descent[: peak + 1] <= 0.0).any()):
        return missing
    growth = descent[: peak + 1] / (s[: peak + 1] + origin)
    place = float(s[peak])
    if pace is None:
        return float(trapezoid(1.0 / growth, x[: peak + 1])), place
    followed = growth * pace.lag(growth)
    time = float(trapezoid(1.0 / followed, x[: peak + 1]))
    time += pace.time_per_step * float(trapezoid(pace.delay(growth), np.log(followed)))
    return (time, place) if time > 0.0 else missing
