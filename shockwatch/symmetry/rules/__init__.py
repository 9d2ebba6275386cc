"""What each aten operator does to axes: one function an operator, in one table.

An operator without a rule is opaque: it admits no symmetry, and its name is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shockwatch.symmetry.context import Call, Context
from shockwatch.symmetry.rules import arrangement, contraction, elementwise, normalization, reduction

Rule = Callable[[Context, Call], Any]

RULES: dict[str, Rule] = {
    **arrangement.RULES,
    **elementwise.RULES,
    **contraction.RULES,
    **reduction.RULES,
    **normalization.RULES,
}

__all__ = ["RULES", "Rule"]
