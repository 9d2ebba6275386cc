"""S_n of equal modules in a list: experts or heads in an ``nn.ModuleList``, with the axes of what tells them apart."""

from __future__ import annotations

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.groups.base import SymmetryGroup
from shockwatch.symmetry.groups.permutation import Permutation


class ListPermutation(Permutation):
    """Reorders whole tensors, one of each member of the list, together with ``axis`` of the pieces.

    A router's rows, columns that read the members side by side; none where the members are summed.

    Args:
        inner: the permutation of the pieces.
        families: names of tensors of one shape, in the order of the list.
        prefix: name of the list.
    """

    def __init__(self, inner: Permutation, families: tuple[tuple[str, ...], ...], prefix: str) -> None:
        super().__init__(inner.name, inner.pieces, inner.evidence, axis=inner.axis)
        self.families = families
        self.prefix = prefix
        self._owner = {name: k for family in families for k, name in enumerate(family)}

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*super().parameters, *(name for family in self.families for name in family))

    @property
    def shared(self) -> frozenset[str]:
        return super().shared | {name for family in self.families for name in family}

    def member_of(self, group: SymmetryGroup) -> int | None:
        """The member of the list in which ``group`` acts, if it is a single one."""
        members = {self._owner[name] for name in group.parameters if name in self._owner}
        return members.pop() if len(members) == 1 else None

    def common_name(self, group: SymmetryGroup) -> str | None:
        """The name of ``group`` without its member's number, if it acts in one: which one, the order decides."""
        member = self.member_of(group)
        if member is None:
            return None
        name = group.name.replace(f"{self.prefix}.{member}.", f"{self.prefix}.")
        for piece in group.pieces:
            # its segment of what reads the members side by side
            if piece.name not in self._owner and piece.label != piece.name:
                name = name.removesuffix(piece.label.removeprefix(piece.name))
        return name

    def permute_(self, state: State, order: Tensor) -> None:
        super().permute_(state, order)
        for family in self.families:
            before = [state[name].clone() for name in family]
            for name, source in zip(family, order.tolist(), strict=True):
                state[name].copy_(before[source])

    def members(self, state: State) -> list[Tensor]:
        """Each family as ``(n, rest)``."""
        return [torch.stack([state[name].reshape(-1) for name in family]) for family in self.families]

    def norms(self, state: State) -> Tensor:
        squares = [part.double().square().sum(-1) for part in self.members(state)]
        inside = torch.stack(squares).sum(0)
        return super().norms(state) + inside if self.pieces else inside

    def entangled(self, other: Permutation) -> bool:
        inside = {name for family in self.families for name in family}
        return not inside.isdisjoint(other.parameters)
