"""Whether the loss on the slice obeys the one-dimensional equation: the residual of Burgers, measured (theory.md 4).

The local entropy obeys ``dU/dtau + |grad U|^2 / 2 = nu Lap U`` on the whole quotient by construction. Restricted to a
line ``q + s u`` it obeys the 1-D equation only as far as the directions across the line do not come in:

    dU/dtau + (dU/ds)^2 / 2 - nu d2U/ds2 = -A(s),    A(s) = |grad_perp U|^2 / 2 - nu Lap_perp U,

and of ``A`` only its change along ``s`` matters to ``v = dU/ds``. ``A`` is measured where ``U`` is known without a
model, at ``tau -> 0``, from the real loss beside the line.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from shockwatch.curvature.reduced import ReducedLoss
from shockwatch.curvature.spectral_measure import horizontal_normal
from shockwatch.shock.hopf_lax import loss_spline
from shockwatch.shock.probe import Probe

_EVERY = 5  # grid points of the slice between two measured ones: five of 21
_PAIRS = 2  # random directions across the line, each taken forth and back
_STEP = 0.05  # length of a step across, in reaches of the slice


def burgers_residual(
    reduced: ReducedLoss,
    probe: Probe,
    viscosity: float,
    generator: torch.Generator,
    pairs: int = _PAIRS,
) -> float:
    """Size of the residual over the sum of the sizes of residual and 1-D terms, in [0, 1].

    Size is the standard deviation along the slice. 0: the slice evolves by the 1-D Burgers equation; 0.5: what
    comes from across changes the slope as much as the equation does; 1: it does not hold here at all. NaN where
    there is no slice. ``|grad_perp L|^2`` and ``Lap_perp L`` are means over random directions ``xi`` across
    (Hutchinson), the same at every ``s``, so that a loss which splits into a part along and a part across gives 0
    exactly. 20 forward passes with two pairs.

    Args:
        reduced: the reduced loss the probe is of.
        probe: holds the slice and its direction.
        viscosity: ``nu``, in units of the loss; NaN, not known, counts as 0.
        generator: source of ``xi``.
        pairs: random directions.
    """
    loss_slice = probe.slice
    if loss_slice is None:
        return math.nan
    thick = viscosity if viscosity > 0.0 else 0.0
    places = loss_slice.positions[::_EVERY]
    losses = loss_slice.losses[::_EVERY]
    spline = loss_spline(loss_slice.positions, loss_slice.losses)
    along = 0.5 * spline.derivative()(places) ** 2 - thick * spline.derivative(2)(places)
    across = np.zeros(len(places))
    u = probe.direction
    for _ in range(pairs):
        xi = horizontal_normal(u, reduced.project, generator)
        xi = xi - (xi @ u) * u
        length = float(xi.norm())
        if length == 0.0:  # the slice is the whole quotient
            return 0.0
        step = _STEP * loss_slice.reach / length
        for index, s in enumerate(places):
            ahead, back = (reduced.loss(float(s) * u + sign * step * xi) for sign in (1.0, -1.0))
            slope = (ahead - back) / (2.0 * step)
            bend = (ahead + back - 2.0 * float(losses[index])) / step**2
            across[index] += (0.5 * slope**2 - thick * bend) / pairs
    size, expected = float(across.std()), float(along.std())
    return size / (size + expected) if size + expected > 0.0 else math.nan
