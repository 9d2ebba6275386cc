"""An order of units, remembered: found once by matching, applied to every later state of the same run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.groups import Permutation


class UnitOrder:
    """Reorderings of units, one after the other; those of one axis become a single one.

    Args:
        moves: ``(group, order)`` in the order of application; see :meth:`Permutation.permute_`.
    """

    def __init__(self, moves: Iterable[tuple[Permutation, Tensor]] = ()) -> None:
        self._moves: list[tuple[Permutation, Tensor]] = []
        for group, order in moves:
            self._append(group, order)

    def _append(self, group: Permutation, order: Tensor) -> None:
        identity = torch.arange(order.shape[-1], device=order.device)
        if bool((order == identity).all()):
            return
        for k in reversed(range(len(self._moves))):
            earlier, before = self._moves[k]
            if earlier is group:
                self._moves[k] = (group, before.gather(-1, order))
                return
            if earlier.entangled(group) or group.entangled(earlier):
                break
        self._moves.append((group, order))

    @property
    def moves(self) -> tuple[tuple[Permutation, Tensor], ...]:
        """``(group, order)`` in the order of application; axes that stay are left out."""
        return tuple(self._moves)

    def then(self, other: UnitOrder) -> UnitOrder:
        """This order, and ``other`` after it."""
        return UnitOrder([*self._moves, *other._moves])

    def apply(self, state: State) -> State:
        """``state`` with its units in this order; tensors that do not change are shared."""
        names = {name for group, _ in self._moves for name in group.parameters}
        moved = {name: tensor.clone() if name in names else tensor for name, tensor in state.items()}
        with torch.no_grad():
            for group, order in self._moves:
                group.permute_(moved, order)
        return moved
