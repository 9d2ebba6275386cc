"""One-dimensional viscous evolution of a loss slice: Cole-Hopf by quadrature (theory.md 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.integrate import trapezoid
from scipy.special import logsumexp

from shockwatch.errors import require_float
from shockwatch.shock.hopf_lax import LONGEST, checked_slice, evolve, loss_spline

Array = npt.NDArray[np.float64]

_PER_WIDTH = (
    3.0  # quadrature points per standard deviation of the narrowest integrand: the rule is exact there
)
_MOST_POINTS = 8192
_NEGLIGIBLE = 1e-9  # weight at the border of the slice, relative to the largest


@dataclass(frozen=True)
class ViscousProfile:
    """``U(q, tau)``, ``v = dU/dq`` and ``dv/dq`` on the grid, each of shape ``(n,)``.

    Attributes:
        positions: ``q``, ascending.
        values: ``U``.
        velocity: ``v``.
        steepness: ``dv/dq``; NaN in the inviscid limit, where it need not exist.
        determined: whether the value rests on the slice alone: what lies beyond its ends has no weight.
        viscous: whether the quadrature resolved the viscosity; otherwise the profile is that of Hopf-Lax.
    """

    positions: Array
    values: Array
    velocity: Array
    steepness: Array
    determined: npt.NDArray[np.bool_]
    viscous: bool

    def dissipation(self, viscosity: float) -> float:
        """``nu`` times the integral of ``(dv/dq)^2``: the loss per unit time of the integral of ``v^2 / 2``."""
        return viscosity * float(trapezoid(self.steepness**2, self.positions))


def evolve_viscous(positions: Array, losses: Array, time: float, viscosity: float) -> ViscousProfile:
    """Solve ``dU/dtau + (dU/dq)^2 / 2 = nu d2U/dq2`` from ``U(q, 0) = L(q)``.

    ``U = -2 nu log (4 pi nu tau)^(-1/2) int exp(-(L(y) + (q - y)^2 / (2 tau)) / (2 nu)) dy``, summed in logarithms on
    a refined grid (the trapezoidal rule converges faster than any power on a smooth peak). ``v`` and ``dv/dq`` are
    mean and variance of ``(q - y) / tau`` under the same weights. A viscosity too small to be resolved with 8192
    points, 0 included, gives the inviscid limit (Hopf-Lax) instead.

    Args:
        positions: ``q``, ascending, shape ``(n,)``, ``n >= 6``.
        losses: ``L(q)``, shape ``(n,)``.
        time: ``tau`` > 0, training time.
        viscosity: ``nu`` >= 0, in units of the loss.

    Raises:
        ValueError: if an argument is not as above.
    """
    q, loss = checked_slice(positions, losses)
    require_float("time", time, 0.0, LONGEST, open_low=True)
    require_float("viscosity", viscosity, 0.0, LONGEST)
    spline = loss_spline(q, loss)
    stiffest = 1.0 / time + max(0.0, float(spline.derivative(2)(q).max()))
    spacing = math.sqrt(2.0 * viscosity / stiffest) / _PER_WIDTH
    points = math.inf if spacing == 0.0 else (q[-1] - q[0]) / spacing + 1.0
    if points > _MOST_POINTS:
        limit = evolve(q, loss, time)
        inside = (limit.minimisers > q[0]) & (limit.minimisers < q[-1])
        return ViscousProfile(q, limit.values, limit.velocity, np.full_like(q, math.nan), inside, False)
    y, step = np.linspace(q[0], q[-1], max(math.ceil(points), len(q)), retstep=True)
    exponents = -(spline(y)[None, :] + (q[:, None] - y[None, :]) ** 2 / (2.0 * time)) / (2.0 * viscosity)
    exponents[:, [0, -1]] -= math.log(2.0)  # ends of the trapezoidal rule
    total = logsumexp(exponents, axis=1)
    determined = exponents[:, [0, -1]].max(axis=1) - exponents.max(axis=1) < math.log(_NEGLIGIBLE)
    weights = np.exp(exponents - total[:, None])
    mean = weights @ y
    variance = (weights * (y[None, :] - mean[:, None]) ** 2).sum(axis=1)
    return ViscousProfile(
        positions=q,
        values=-2.0 * viscosity * (total + math.log(step) - 0.5 * math.log(4.0 * math.pi * viscosity * time)),
        velocity=(q - mean) / time,
        steepness=1.0 / time - variance / (2.0 * viscosity * time**2),
        determined=determined,
        viscous=True,
    )
