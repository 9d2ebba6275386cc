"""One file for each kind of group; ``FINDERS`` is the register, in the order in which groups are looked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.groups import (
    bias_transport,
    complex_scaling,
    general_linear,
    mean_zero,
    permutation,
    rotation,
    scaling,
    sign_flip,
    translation,
    unread,
    whole_scaling,
)
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup
from shockwatch.symmetry.groups.bias_transport import BiasTransport
from shockwatch.symmetry.groups.complex_scaling import ComplexScaling
from shockwatch.symmetry.groups.general_linear import GeneralLinear
from shockwatch.symmetry.groups.listed import ListPermutation
from shockwatch.symmetry.groups.mean_zero import MeanZeroReader
from shockwatch.symmetry.groups.permutation import Permutation
from shockwatch.symmetry.groups.rotation import Rotation
from shockwatch.symmetry.groups.scaling import PositiveScaling, RealScaling, ScaleInvariance, ScalingGroup
from shockwatch.symmetry.groups.sign_flip import SignFlip
from shockwatch.symmetry.groups.translation import Translation
from shockwatch.symmetry.groups.unread import Unread

Finder = Callable[[ChargeSystem, Sequence[SymmetryGroup]], list[SymmetryGroup]]

FINDERS: tuple[Finder, ...] = (
    general_linear.find,
    rotation.find,
    complex_scaling.find,
    scaling.find,
    whole_scaling.find,
    sign_flip.find,
    translation.find,
    mean_zero.find,
    bias_transport.find,
    unread.find,
    permutation.find,
)

__all__ = [
    "FINDERS",
    "BiasTransport",
    "ComplexScaling",
    "ContinuousGroup",
    "GeneralLinear",
    "ListPermutation",
    "MeanZeroReader",
    "Permutation",
    "PositiveScaling",
    "RealScaling",
    "Rotation",
    "ScaleInvariance",
    "ScalingGroup",
    "SignFlip",
    "SymmetryGroup",
    "Translation",
    "Unread",
]
