"""Which element of each group takes one state to another, and how to say it in a few words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry import Quotient
from shockwatch.symmetry.groups import (
    ContinuousGroup,
    GeneralLinear,
    Permutation,
    Rotation,
    ScalingGroup,
    SignFlip,
    SymmetryGroup,
)

_MOST_SWEEPS, _STILL = 200, 1e-9
_NOTHING = 1e-3  # a factor, a turn or a relative shift below it is not told
_TURNS_WITH = (Rotation, ScalingGroup, SignFlip, GeneralLinear)  # in the order in which they are aligned


class Way:
    """Where a state goes, group by group, on its way down to the canonical slice.

    Attributes:
        state: where it stands; a copy in double precision.
        elements: name of a group -> its element so far: factors of the units, or matrices that act from the left.
        moves: name of any other group -> parameter -> what it added.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state: State = {
            n: (t.double() if t.is_floating_point() else t).clone() for n, t in state.items()
        }
        self.elements: dict[str, Tensor] = {}
        self.moves: dict[str, State] = {}

    def down(self, quotient: Quotient) -> None:
        """Closed forms one after the other until nothing moves."""
        groups = [g for g in quotient.groups if isinstance(g, ContinuousGroup)]
        for _ in range(_MOST_SWEEPS):
            if max((self._step(g, None) for g in groups), default=0.0) < _STILL:
                break

    def meet(self, quotient: Quotient, other: State) -> None:
        """Turn to the point nearest to ``other``."""
        for kind in _TURNS_WITH:
            for group in quotient.groups:
                if isinstance(group, kind) and group.has_frame:
                    self._step(group, other)

    def _step(self, group: SymmetryGroup, other: State | None) -> float:
        before = {n: self.state[n].clone() for n in group.parameters if n in self.state}
        change = 0.0
        if other is not None:
            group.align_(self.state, other)
        elif isinstance(group, ContinuousGroup):
            change = group.canonicalize_(self.state)
        if isinstance(group, (ScalingGroup, GeneralLinear, Rotation)):
            moved = group.between({**self.state, **before}, self.state)
            known = self.elements.get(group.name)
            then = torch.mul if isinstance(group, ScalingGroup) else torch.matmul
            self.elements[group.name] = moved if known is None else then(moved, known)
        elif not isinstance(group, Permutation):
            known_moves = self.moves.get(group.name, {})
            self.moves[group.name] = {
                n: self.state[n] - t + known_moves.get(n, 0.0) for n, t in before.items()
            }
        return change


def elements(quotient: Quotient, first: State, second: State) -> dict[str, str]:
    """Name of each group that takes part -> its element from ``first`` to ``second``, in words.

    Args:
        second: its units in the order of those of ``first``.
    """
    with torch.no_grad():
        one, other = Way(first), Way(second)
        one.down(quotient)
        other.down(quotient)
        other.meet(quotient, one.state)
        size = quotient.norm(one.state)
        told = {group.name: _told(group, one, other, size) for group in quotient.groups}
    return {name: text for name, text in told.items() if text}


def _told(group: SymmetryGroup, one: Way, other: Way, size: float) -> str:
    if group.name in one.elements and group.name in other.elements:
        down, back = one.elements[group.name], other.elements[group.name]
        if isinstance(group, ScalingGroup):
            return factors(down / back)
        return matrices(torch.linalg.solve(back, down))
    there, here = one.moves.get(group.name, {}), other.moves.get(group.name, {})
    added = [there.get(n, torch.zeros(())) - here.get(n, torch.zeros(())) for n in {**there, **here}]
    shift = math.sqrt(sum(float(t.square().sum()) for t in added))
    if shift <= _NOTHING * size:
        return ""
    return "signs" if isinstance(group, SignFlip) else f"shift of length {shift:.2g}"


def factors(values: Tensor) -> str:
    """``factors 0.31 to 2.9, 2 of 5 signs``; empty for the identity."""
    sizes, parts = values.abs().flatten(), []
    if float(sizes.log().abs().max()) > _NOTHING:
        low, high = f"{float(sizes.min()):.2g}", f"{float(sizes.max()):.2g}"
        parts.append(f"factor {low}" if low == high else f"factors {low} to {high}")
    if values.is_complex():
        parts += _turn(values.angle().abs())
    elif (flipped := int((values < 0).sum())) > 0:
        parts.append(f"{flipped} of {len(sizes)} signs")
    return ", ".join(parts)


def matrices(values: Tensor) -> str:
    """``stretches 0.2 to 3.1, turns up to 134°``; empty for the identity."""
    left, sizes, right = torch.linalg.svd(values)
    parts = []
    if float(sizes.log().abs().max()) > _NOTHING:
        parts.append(f"stretches {float(sizes.min()):.2g} to {float(sizes.max()):.2g}")
    return ", ".join([*parts, *_turn(torch.linalg.eigvals(left @ right).angle().abs())])


def _turn(angles: Tensor) -> list[str]:
    most = float(angles.max())
    return [f"turns up to {math.degrees(most):.0f}°"] if most > math.radians(0.5) else []
