"""Which rank watches which tensors, and what becomes of groups that tie the tensors of several ranks together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shockwatch.symmetry.groups import Permutation, ScalingGroup, SignFlip, SymmetryGroup
from shockwatch.symmetry.pieces import Piece

LARGEST_BLOCK = 0.5
"""Share of the model that a block gathered on one rank may be; one tensor may always be."""


@dataclass(frozen=True)
class Plan:
    """Blocks of tensors, each on one rank.

    Attributes:
        owner: the rank of each tensor.
        inside: the groups within one rank's tensors, by rank.
        across: groups of factors for units that reach over several ranks: they are found from sums over each rank's own
            tensors, exactly.
        left_out: groups that would need tensors of several ranks at once; what training does along them counts as
            motion.
        reordering: permutations over several ranks. They change none of the numbers: training does not reorder units.
    """

    owner: dict[str, int]
    inside: tuple[tuple[SymmetryGroup, ...], ...]
    across: tuple[SymmetryGroup, ...]
    left_out: tuple[SymmetryGroup, ...]
    reordering: tuple[SymmetryGroup, ...]

    def names(self, rank: int) -> list[str]:
        """The tensors of one rank."""
        return [name for name, owner in self.owner.items() if owner == rank]


def share_out(groups: Sequence[SymmetryGroup], sizes: Mapping[str, int], ranks: int) -> Plan:
    """Join tensors that groups need together to blocks, and give each block to the rank with the least.

    Groups of matrices (and of shifts) are served first, the smaller ones before the larger, as long as a block stays
    within half of the model; factors for units join tensors only within one rank's share: they can do without.

    Args:
        sizes: bytes of each trainable tensor.
        ranks: how many.
    """
    block = {name: {name} for name in sizes}
    total = sum(sizes.values())

    def size(names: Sequence[str] | set[str]) -> int:
        return sum(sizes[name] for name in names)

    tying = [g for g in groups if not isinstance(g, Permutation) and len(_needed(g, sizes)) > 1]
    for group in sorted(tying, key=lambda g: (_spans(g), size(_needed(g, sizes)))):
        names = _needed(group, sizes)
        joined = set().union(*(block[name] for name in names))
        limit = total / ranks if _spans(group) else LARGEST_BLOCK * total
        if size(joined) <= limit:
            for name in joined:
                block[name] = joined
    owner = _owners(list({id(b): b for b in block.values()}.values()), sizes, ranks)

    inside: list[list[SymmetryGroup]] = [[] for _ in range(ranks)]
    across: list[SymmetryGroup] = []
    left_out: list[SymmetryGroup] = []
    reordering: list[SymmetryGroup] = []
    for group in groups:
        owners = {owner[name] for name in _needed(group, sizes)}
        if len(owners) <= 1:
            inside[owners.pop() if owners else 0].append(group)
        elif isinstance(group, Permutation):
            reordering.append(group)
        else:
            (across if _spans(group) else left_out).append(group)
    return Plan(owner, tuple(map(tuple, inside)), tuple(across), tuple(left_out), tuple(reordering))


def _spans(group: SymmetryGroup) -> bool:
    """Whether sums over each tensor by itself say all about the group."""
    return isinstance(group, SignFlip) or (isinstance(group, ScalingGroup) and group.only_scales)


def _needed(group: SymmetryGroup, sizes: Mapping[str, int]) -> list[str]:
    """The trainable tensors that a group moves, or reads on its way."""
    names = (*group.parameters, *(piece.name for piece in _pieces(group)))
    return [name for name in dict.fromkeys(names) if name in sizes]


def _pieces(value: Any) -> Iterator[Piece]:
    if isinstance(value, Piece):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _pieces(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _pieces(getattr(value, field.name))


def _owners(blocks: Sequence[set[str]], sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    load = [0] * ranks
    owner: dict[str, int] = {}
    place = {name: k for k, name in enumerate(sizes)}
    weights = [(sum(sizes[n] for n in b), -min(place[n] for n in b), b) for b in blocks]
    for weight, _, names in sorted(weights, key=lambda entry: entry[:2], reverse=True):
        rank = load.index(min(load))
        load[rank] += weight
        owner.update(dict.fromkeys(names, rank))
    return {name: owner[name] for name in sizes}
