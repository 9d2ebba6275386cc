"""One file for each kind of group; ``FINDERS`` is the register, in the order in which groups are looked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.groups import general_linear, permutation, scaling, translation
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup
from shockwatch.symmetry.groups.general_linear import GeneralLinear
from shockwatch.symmetry.groups.permutation import Permutation
from shockwatch.symmetry.groups.scaling import PositiveScaling, RealScaling, ScaleInvariance, ScalingGroup
from shockwatch.symmetry.groups.translation import Translation

Finder = Callable[[ChargeSystem, Sequence[SymmetryGroup]], list[SymmetryGroup]]

FINDERS: tuple[Finder, ...] = (general_linear.find, scaling.find, translation.find, permutation.find)

__all__ = [
    "FINDERS",
    "ContinuousGroup",
    "GeneralLinear",
    "Permutation",
    "PositiveScaling",
    "RealScaling",
    "ScaleInvariance",
    "ScalingGroup",
    "SymmetryGroup",
    "Translation",
]
