"""Curvature of the loss on the quotient: Hessian-vector products of ``P H P``, the ends of its spectrum,
and its spectral measure seen from one vector (theory.md 5)."""

from shockwatch.curvature.adaptive import AdaptedLoss
from shockwatch.curvature.density import SpectralDensity, spectral_density
from shockwatch.curvature.extremes import ExtremeEigenvalues, Recycled, extreme_eigenvalues
from shockwatch.curvature.hvp import CanonicalLoss
from shockwatch.curvature.lanczos import Krylov, krylov
from shockwatch.curvature.preconditioned import adam_rates, adam_stability, preconditioned
from shockwatch.curvature.reduced import ReducedLoss
from shockwatch.curvature.ritz import RitzSpace
from shockwatch.curvature.spectral_measure import (
    SpectralMeasure,
    local_entropy_gap,
    random_measure,
    spectral_measure,
)
from shockwatch.curvature.weight_decay import DecayedLoss, has_minimum_norm, with_weight_decay

__all__ = [
    "AdaptedLoss",
    "CanonicalLoss",
    "DecayedLoss",
    "ExtremeEigenvalues",
    "Krylov",
    "Recycled",
    "ReducedLoss",
    "RitzSpace",
    "SpectralDensity",
    "SpectralMeasure",
    "adam_rates",
    "adam_stability",
    "extreme_eigenvalues",
    "has_minimum_norm",
    "krylov",
    "local_entropy_gap",
    "preconditioned",
    "random_measure",
    "spectral_density",
    "spectral_measure",
    "with_weight_decay",
]
