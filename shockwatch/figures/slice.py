"""The loss along the unstable direction, and what Burgers' equation makes of its slope (theory.md 4)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from shockwatch.figures.canvas import draw
from shockwatch.shock.cole_hopf import evolve_viscous
from shockwatch.shock.hopf_lax import first_shock, loss_spline
from shockwatch.shock.slice import LossSlice
from shockwatch.snapshot import Picture

_POINTS = 241
_TIMES = (0.5, 1.0, 1.5)  # in units of the time at which the shock forms


def slice_picture(
    loss_slice: LossSlice, viscosity: float, step: int, arrival: float, arrival_error: float
) -> Picture:
    """``shockwatch/slice``: loss against position, and below it the coarse-grained slope at three times.

    Args:
        loss_slice: the loss along the most unstable direction.
        viscosity: ``nu`` measured on the run, in units of the loss; NaN or 0 draws the inviscid limit.
        step: optimiser step of the snapshot.
        arrival, arrival_error: the forecast, in steps; NaN where there is none.
    """
    # the samples are few: draw their spline
    positions = np.linspace(loss_slice.positions[0], loss_slice.positions[-1], _POINTS)
    losses = loss_spline(loss_slice.positions, loss_slice.losses)(positions)
    viscosity = viscosity if math.isfinite(viscosity) and viscosity > 0.0 else 0.0

    def paint(above: Any, below: Any) -> None:
        above.plot(positions, losses, color="C0")
        here = loss_slice.losses[len(loss_slice.losses) // 2]
        above.plot([0.0], [here], "o", color="C3", label=f"step {step}")
        above.set(xlabel="position along the unstable direction", ylabel="loss")
        if math.isfinite(arrival):
            above.set_title(f"transition forecast in {arrival:.0f} ± {arrival_error:.0f} steps", fontsize=10)
        above.legend(frameon=False)
        shock = first_shock(positions, losses)
        if math.isfinite(shock.time):
            for share in _TIMES:
                profile = evolve_viscous(positions, losses, share * shock.time, viscosity)
                below.plot(profile.positions, profile.velocity, label=f"{share:g} × shock time")
            below.legend(frameon=False)
            below.set_title(f"shock after training time {shock.time:.3g}", fontsize=10)
        below.set(xlabel="position", ylabel="slope after coarse-graining")

    return draw("shockwatch/slice", (5.0, 6.4), 2, paint)
