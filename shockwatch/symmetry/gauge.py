"""The group element between a state and its canonical point, kept from one snapshot of a run to the next."""

from __future__ import annotations

from torch import Tensor

from shockwatch.symmetry.groups.base import SymmetryGroup


class Gauge:
    """Where the last state of a run stood on its orbit, by group; the next one starts from there.

    Training hardly moves along orbits: applied to the next raw state, the element of the last one leaves little to do,
    and what is done from there is the same point, as the canonical form is unique and alignment goes to the nearest.

    Attributes:
        logs: logarithms of scales.
        turns: matrices, the last factor on the left.
        settled: whether both are those of one whole state.
    """

    def __init__(self) -> None:
        self.logs: dict[SymmetryGroup, Tensor] = {}
        self.turns: dict[SymmetryGroup, Tensor] = {}
        self.settled = False

    def forget(self) -> None:
        """Start anew."""
        self.logs, self.turns, self.settled = {}, {}, False

    def copy(self) -> Gauge:
        """Another one that knows the same."""
        other = Gauge()
        other.logs, other.turns, other.settled = dict(self.logs), dict(self.turns), self.settled
        return other

    def turn(self, group: SymmetryGroup, matrix: Tensor | None) -> None:
        """``matrix`` has been applied after what is known of ``group``; None: nothing."""
        if matrix is not None:
            known = self.turns.get(group)
            self.turns[group] = matrix if known is None else matrix @ known
