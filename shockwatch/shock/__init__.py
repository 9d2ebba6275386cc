"""Shocks ahead: a probe of the unstable directions at one point, the loss along one of them and its evolution
(Hopf-Lax, Cole-Hopf), local entropy, forecasts of the arrival, and the ``shock/`` scalars made of them (theory.md 4
and 5)."""

from shockwatch.shock.arrival import ArrivalForecaster, Forecast
from shockwatch.shock.cole_hopf import ViscousProfile, evolve_viscous
from shockwatch.shock.hopf_lax import Front, Profile, Shock, evolve, first_shock, fronts, strength, tie_gap
from shockwatch.shock.indicators import ShockIndicators
from shockwatch.shock.local_entropy import LocalEntropy, laplace, monte_carlo
from shockwatch.shock.probe import Probe, probe
from shockwatch.shock.residual import burgers_residual
from shockwatch.shock.slice import LossSlice, take_slice, time_to_steepest
from shockwatch.shock.trajectory import TrajectoryForecaster

__all__ = [
    "ArrivalForecaster",
    "Forecast",
    "Front",
    "LocalEntropy",
    "LossSlice",
    "Probe",
    "Profile",
    "Shock",
    "ShockIndicators",
    "TrajectoryForecaster",
    "ViscousProfile",
    "burgers_residual",
    "evolve",
    "evolve_viscous",
    "first_shock",
    "fronts",
    "laplace",
    "monte_carlo",
    "probe",
    "strength",
    "take_slice",
    "tie_gap",
    "time_to_steepest",
]
