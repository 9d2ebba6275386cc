"""The groups of a quotient as they act: on stacks of equal layers, in sets that share pieces, in order of alignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.balancing import balance_, components
from shockwatch.symmetry.groups import ContinuousGroup, GeneralLinear, Permutation, Rotation, SymmetryGroup
from shockwatch.symmetry.packing import Layout, Packed
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.stacking import Stacking

_REFINEMENTS = 3  # rounds of coordinate descent where a stream and what reads it turn together


class Acting:
    """``groups`` on states of one model.

    Args:
        names: trainable parameters.
        state: any state; only names and shapes count.
        stack: whether equal layers are to act as one.
    """

    def __init__(
        self,
        groups: Sequence[SymmetryGroup],
        names: Sequence[str],
        state: Mapping[str, Tensor],
        *,
        stack: bool = True,
    ) -> None:
        moving = [g for g in groups if not isinstance(g, Permutation)]
        shapes = {name: tuple(state[name].shape) for g in moving for name in g.parameters if name in state}
        stacking = Stacking(moving, shapes if stack else {})
        touched = dict.fromkeys(name for group in groups for name in group.parameters)
        self.layout = Layout(names, [name for name in touched if name not in set(names)], stacking.stacks)
        self._members = stacking.groups
        continuous = [g for g, _ in stacking.groups if isinstance(g, ContinuousGroup)]
        self.components = components(continuous)
        # Streams first, then signs, then heads: each is found from rows whose columns are already right.
        framed = [g for g, _ in stacking.groups if g.has_frame]
        self._framed = sorted(framed, key=lambda g: isinstance(g, GeneralLinear) - isinstance(g, Rotation))
        self._settled: list[list[Piece]] = []
        for k, group in enumerate(self._framed):
            later = {label for other in self._framed[k + 1 :] for label in other.shared}
            self._settled.append([p for p in group.pieces if p.label not in later])
        linear = [g.shared for g in framed if isinstance(g, GeneralLinear)]
        chained = len(linear) > 1 and len(frozenset().union(*linear)) < sum(map(len, linear))
        self._coupled = chained or any(isinstance(g, Rotation) for g in framed)
        self._rotations = [g for g, _ in stacking.groups if isinstance(g, Rotation)]

    def balance_(self, state: Packed) -> None:
        """Move to the minimum-norm point of the orbit in place."""
        for groups in self.components:
            balance_(groups, state.stacks)

    def align_(self, state: Packed, reference: Packed) -> None:
        """Turn a balanced state in place to the point nearest to ``reference``."""
        self.pair_(state.stacks, reference.stacks)
        self.refine_(state.stacks, reference.stacks)

    def pair_(self, state: State, reference: State) -> None:
        """Every group once; a linear one in the pieces that no later one turns, where there are any."""
        for group, settled in zip(self._framed, self._settled, strict=True):
            if isinstance(group, GeneralLinear) and settled:
                group.turn_(state, reference, settled)
            else:
                group.align_(state, reference)

    def refine_(self, state: State, reference: State) -> None:
        """A stream and what reads it turn together: coordinate descent from a point where units are in order."""
        for _ in range(_REFINEMENTS if self._coupled else 0):
            for rotation in self._rotations:
                rotation.refine_(state, reference)
            for group in self._framed[len(self._rotations) :]:
                group.align_(state, reference)

    def read(
        self, numbers: Callable[[SymmetryGroup], Mapping[str, Tensor]]
    ) -> list[tuple[SymmetryGroup, dict[str, float]]]:
        """What ``numbers`` gives of each group, by the groups that the stacked ones stand for."""
        found = [(members, dict(numbers(group))) for group, members in self._members]
        flat = [value.double().reshape(-1).cpu() for _, values in found for value in values.values()]
        rest = torch.cat(flat).tolist() if flat else []
        result: list[tuple[SymmetryGroup, dict[str, float]]] = []
        for members, values in found:
            rows: list[dict[str, float]] = [{} for _ in members]
            for key in values:
                for row in rows:
                    row[key] = rest.pop(0)
            result += zip(members, rows, strict=True)
        return result
