"""What one step does to its tensors, as the few laws that matter to a group.

Every operator of the graph is reduced to these records; the groups read nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from shockwatch.symmetry.axes import Atom, Axis
from shockwatch.symmetry.values import Symbol


class Law(Enum):
    """How the output of an operator follows its inputs, unit by unit."""

    CONTRACT = "contraction"  # y = sum over atoms of x w
    ADD = "sum of tensors"
    MULTIPLY = "product of tensors"
    POWER = "power"  # y = x ** exponent
    HOMOGENEOUS = "positively homogeneous"  # y(s x) = s y(x) for s > 0
    ODD = "odd"
    POINTWISE = "pointwise"
    SELECT = "linear selection"  # y is part of x times a number, or a sum or mean over some of its axes
    SOFTMAX = "softmax"
    NORMALIZE = "normalisation"  # y = (x - mean) / sqrt(var + eps)
    OFFSET = "constant offset"  # y = x + small constant, an eps
    FIX = "fixed"  # the tensor keeps its values


@dataclass(frozen=True)
class Record:
    """One law between tensors.

    Attributes:
        atoms: contracted atoms (CONTRACT), normalised atoms (SOFTMAX, NORMALIZE), empty otherwise.
        exponent: of POWER.
        centred: whether NORMALIZE removes the mean.
        factor: number that SELECT multiplies by.
        statistic: per-slice statistic of NORMALIZE: it carries the atoms that are not normalised.
        renamed: atoms that the output carries under another identity: of the second input of CONTRACT, of SELECT.
        operator: the aten operator, for messages.
    """

    law: Law
    inputs: tuple[Symbol, ...]
    output: Symbol
    operator: str
    atoms: Axis = ()
    exponent: float = 1.0
    centred: bool = False
    factor: float = 1.0
    renamed: tuple[tuple[Atom, Atom], ...] = ()
    statistic: Symbol | None = None
