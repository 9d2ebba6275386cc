"""Horizontal projection: remove from a tangent vector what runs along the orbits (theory.md 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from shockwatch.norms import square_norm
from shockwatch.snapshot import State
from shockwatch.symmetry.blocks import Block, GroupBlock, ScalingsBlock
from shockwatch.symmetry.conjugate_gradients import conjugate_gradients, dot
from shockwatch.symmetry.groups import ContinuousGroup, ScalingGroup
from shockwatch.symmetry.packing import Layout, Packed

_DRAWS = 20260618


class HorizontalProjector:
    """``t -> t - G (G^T G)^-1 G^T t`` at one frozen state; ``G`` has the generators as columns.

    All scalings of a component are one block with an explicit Gram matrix, every other group is a block of its own.
    Blocks orthogonal to all others are exact in one step; the rest take conjugate gradients, preconditioned by the
    blocks' own inverses.

    Args:
        components: groups in sets that share no piece.
        layout: of their states.
        state: the point; must not change while the projector is in use.
        tolerance: accuracy relative to the tangent; default: that of the state's type.
        factorise: whether to factorise Gram matrices (pays after a few products).
    """

    def __init__(
        self,
        components: Sequence[Sequence[ContinuousGroup]],
        layout: Layout,
        state: Packed,
        *,
        tolerance: float | None = None,
        factorise: bool = True,
    ) -> None:
        self._layout = layout
        self._state = state
        self._parts: list[_Coupled] = []
        point = state.stacks
        with torch.no_grad():
            for groups in components:
                wide = groups[0].pieces[0].view(point).dtype == torch.float64
                accuracy = tolerance if tolerance is not None else 1e-13 if wide else 1e-6
                scalings = [g for g in groups if isinstance(g, ScalingGroup) and g.only_scales]
                blocks: list[Block] = [GroupBlock(g, point) for g in groups if g not in scalings]
                if scalings:
                    blocks.append(ScalingsBlock(scalings, point, accuracy / 10, factorise))
                parts = _orthogonal(blocks, point, accuracy) if factorise else [blocks]
                self._parts += [_Coupled(part, point, accuracy) for part in parts]

    def __call__(self, tangent: Mapping[str, Tensor]) -> State:
        """The horizontal part of ``tangent``, in new tensors."""
        inside = self._layout.tangent(tangent, self._state)
        self._remove_(inside.stacks)
        return {**tangent, **{name: inside[name] for name in tangent if name in inside}}

    def remove_(self, tangent: State) -> None:
        """Subtract the vertical part in place."""
        inside = self._layout.tangent(tangent, self._state)
        self._remove_(inside.stacks)
        with torch.no_grad():
            torch._foreach_copy_(list(tangent.values()), [inside[name] for name in tangent])

    def _remove_(self, tangent: State) -> None:
        with torch.no_grad():
            solved = [part.solve(tangent)[0] for part in self._parts]
            for part, coefficients in zip(self._parts, solved, strict=True):
                part.generate_([-c for c in coefficients], tangent)

    def vertical_norm(self, tangent: Mapping[str, Tensor]) -> float:
        """Norm of the vertical part: ``c^T G^T t``, without forming it."""
        total = 0.0
        inside = self._layout.tangent(tangent, self._state).stacks
        with torch.no_grad():
            for part in self._parts:
                solution, adjoint = part.solve(inside)
                total += dot(solution, adjoint)
        return math.sqrt(max(total, 0.0))


class _Coupled:
    """Blocks that are not orthogonal to one another."""

    def __init__(self, blocks: Sequence[Block], state: State, tolerance: float) -> None:
        self._blocks = tuple(blocks)
        self._state = state
        self._tolerance = tolerance
        self.names = list(dict.fromkeys(name for block in blocks for name in block.names))

    def _adjoint(self, tangent: State) -> list[Tensor]:
        return [block.adjoint(tangent) for block in self._blocks]

    def _precondition(self, vector: list[Tensor]) -> list[Tensor]:
        return [block.precondition(v) for block, v in zip(self._blocks, vector, strict=True)]

    def generate_(self, coefficients: list[Tensor], tangent: State) -> None:
        """Add the vertical vector with these coefficients."""
        for block, c in zip(self._blocks, coefficients, strict=True):
            block.generate_(c, tangent)

    def _product(self, coefficients: list[Tensor]) -> list[Tensor]:
        inside = {name: torch.zeros_like(self._state[name]) for name in self.names}
        self.generate_(coefficients, inside)
        return self._adjoint(inside)

    def solve(self, tangent: State) -> tuple[list[Tensor], list[Tensor]]:
        """Coefficients of the vertical part, and the inner products with the generators."""
        adjoint = self._adjoint(tangent)
        if len(self._blocks) == 1:
            return [self._blocks[0].solve(adjoint[0])], adjoint
        # with exact blocks the preconditioned residual is about the norm of what is left of the vertical part
        size = math.sqrt(sum(square_norm(tangent[name]) for name in self.names))
        floor = self._tolerance * size
        return conjugate_gradients(
            self._product, adjoint, self._precondition, self._tolerance, floor
        ), adjoint


def _orthogonal(blocks: Sequence[Block], state: State, tolerance: float) -> list[list[Block]]:
    """The blocks in sets orthogonal to one another: tried on a random vertical vector of each block."""
    sets: list[list[Block]] = []
    generator = torch.Generator().manual_seed(_DRAWS)
    for block in blocks:
        touches = _touching(block, state, tolerance, generator) if len(blocks) > 1 else _never
        together = [s for s in sets if any(touches(other) for other in s)]
        sets = [s for s in sets if not any(s is t for t in together)]
        sets.append([*(b for s in together for b in s), block])
    return sets


def _never(other: Block) -> bool:
    return False


def _touching(
    block: Block, state: State, tolerance: float, generator: torch.Generator
) -> Callable[[Block], bool]:
    """Whether a random vertical vector of ``block`` has a component in another block's span."""
    like = block.adjoint({name: torch.zeros_like(state[name]) for name in block.names})
    inside = {name: torch.zeros_like(state[name]) for name in block.names}
    block.generate_(torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like), inside)
    limit = tolerance**2 * sum(square_norm(part) for part in inside.values())

    def touches(other: Block) -> bool:
        if not block.labels & other.labels:
            return False
        full = {n: inside[n] if n in inside else torch.zeros_like(state[n]) for n in other.names}
        adjoint = other.adjoint(full)
        return not dot([other.solve(adjoint)], [adjoint]) <= limit

    return touches
