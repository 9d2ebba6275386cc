"""Shocks ahead: a probe of the unstable directions at one point, the loss along one of them, the forecast of
its arrival, 1-D Hopf-Lax evolution, and the ``shock/`` scalars made of them (theory.md 5)."""

from shockwatch.shock.arrival import ArrivalForecaster, Forecast
from shockwatch.shock.hopf_lax import Profile, Shock, evolve, first_shock, strength
from shockwatch.shock.indicators import ShockIndicators
from shockwatch.shock.probe import Probe, probe
from shockwatch.shock.slice import LossSlice, take_slice, time_to_steepest

__all__ = [
    "ArrivalForecaster",
    "Forecast",
    "LossSlice",
    "Probe",
    "Profile",
    "Shock",
    "ShockIndicators",
    "evolve",
    "first_shock",
    "probe",
    "strength",
    "take_slice",
    "time_to_steepest",
]
