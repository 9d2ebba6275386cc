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
                touching = _Touching(blocks, point, accuracy, by_trial=factorise)
                parts = _orthogonal(blocks, touching) if factorise else [blocks]
                self._parts += [_Coupled(part, point, accuracy, touching) for part in parts]

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
        """Norm of the vertical part: ``c^T G^T t``, without forming it.

        The tolerance relative to itself is enough: it is wrong by half the square of what the part is wrong by.
        """
        total = 0.0
        inside = self._layout.tangent(tangent, self._state).stacks
        with torch.no_grad():
            for part in self._parts:
                total += part.solve(inside, by_itself=True)[1]
        return math.sqrt(max(total, 0.0))


class _Coupled:
    """Blocks that are not orthogonal to one another.

    Some that are orthogonal among themselves are eliminated, and conjugate gradients solve for the others: that takes
    little more than half the steps.

    Args:
        touching: whether two blocks are not orthogonal.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        state: State,
        tolerance: float,
        touching: Callable[[Block, Block], bool],
    ) -> None:
        self._state = state
        self._tolerance = tolerance
        self.names = list(dict.fromkeys(name for block in blocks for name in block.names))
        self._gone: list[Block] = []
        for block in sorted(blocks, key=lambda b: -b.dim):
            if block.exact and not any(touching(block, other) for other in self._gone):
                self._gone.append(block)
        self._gone = self._gone if len(blocks) > 1 else []
        self._left = [block for block in blocks if block not in self._gone]
        self._blocks = (*self._left, *self._gone)

    def generate_(self, coefficients: list[Tensor], tangent: State) -> None:
        """Add the vertical vector with these coefficients."""
        for block, c in zip(self._blocks, coefficients, strict=True):
            block.generate_(c, tangent)

    def _eliminate_(self, tangent: State) -> tuple[list[Tensor], list[Tensor]]:
        """Subtract the part along the blocks that are gone; its coefficients, and the inner products there were."""
        adjoints = [block.adjoint(tangent) for block in self._gone]
        found = [block.precondition(a) for block, a in zip(self._gone, adjoints, strict=True)]
        for block, c in zip(self._gone, found, strict=True):
            block.generate_(-c, tangent)
        return found, adjoints

    def _product(self, coefficients: list[Tensor]) -> list[Tensor]:
        inside = {name: torch.zeros_like(self._state[name]) for name in self.names}
        for block, c in zip(self._left, coefficients, strict=True):
            block.generate_(c, inside)
        found, _ = self._eliminate_(inside)
        return [*(block.adjoint(inside) for block in self._left), *found]

    def _precondition(self, vector: list[Tensor]) -> list[Tensor]:
        return [block.precondition(v) for block, v in zip(self._left, vector, strict=True)]

    def solve(self, tangent: State, *, by_itself: bool = False) -> tuple[list[Tensor], float]:
        """Coefficients of the vertical part and its squared norm; ``by_itself``: to the root of the tolerance of it."""
        if len(self._blocks) == 1:
            adjoint = self._blocks[0].adjoint(tangent)
            coefficients = self._blocks[0].solve(adjoint)
            return [coefficients], dot([coefficients], [adjoint])
        # with exact blocks the preconditioned residual is about the norm of what is left of the vertical part
        tolerance = math.sqrt(self._tolerance) if by_itself else self._tolerance
        floor = self._tolerance * math.sqrt(sum(square_norm(tangent[name]) for name in self.names))
        inside = {name: tangent[name].clone() for name in self.names}
        gone, adjoints = self._eliminate_(inside)
        right = [block.adjoint(inside) for block in self._left]
        solved = conjugate_gradients(self._product, right, self._precondition, tolerance, floor)
        left, further = solved[: len(right)], solved[len(right) :]
        square = dot(gone, adjoints) + dot(left, right)
        gone = [g - f for g, f in zip(gone, further, strict=True)] if further else gone
        return [*left, *gone], square


def _orthogonal(blocks: Sequence[Block], touching: Callable[[Block, Block], bool]) -> list[list[Block]]:
    """The blocks in sets orthogonal to one another."""
    sets: list[list[Block]] = []
    for block in blocks:
        together = [s for s in sets if any(touching(block, other) for other in s)]
        sets = [s for s in sets if not any(s is t for t in together)]
        sets.append([*(b for s in together for b in s), block])
    return sets


class _Touching:
    """Whether two blocks are not orthogonal: tried on a random vertical vector of the first.

    Args:
        by_trial: else all that share a piece are taken to be.
    """

    def __init__(self, blocks: Sequence[Block], state: State, tolerance: float, *, by_trial: bool) -> None:
        self._state, self._tolerance, self._by_trial = state, tolerance, by_trial
        self._generator = torch.Generator().manual_seed(_DRAWS)
        self._place = {block: k for k, block in enumerate(blocks)}
        self._vectors: dict[Block, State] = {}
        self._known: dict[tuple[int, int], bool] = {}

    def __call__(self, first: Block, second: Block) -> bool:
        if not first.labels & second.labels:
            return False
        if not self._by_trial:
            return True
        later, earlier = sorted((first, second), key=lambda block: -self._place[block])
        pair = self._place[later], self._place[earlier]
        if pair not in self._known:
            self._known[pair] = self._tried(later, earlier)
        return self._known[pair]

    def _tried(self, block: Block, other: Block) -> bool:
        if block not in self._vectors:
            inside = {name: torch.zeros_like(self._state[name]) for name in block.names}
            like = block.adjoint(inside)
            draw = torch.randn(like.shape, generator=self._generator, dtype=torch.float64).to(like)
            block.generate_(draw, inside)
            self._vectors = {block: inside}
        inside = self._vectors[block]
        limit = self._tolerance**2 * sum(square_norm(part) for part in inside.values())
        full = {n: inside[n] if n in inside else torch.zeros_like(self._state[n]) for n in other.names}
        adjoint = other.adjoint(full)
        return not dot([other.solve(adjoint)], [adjoint]) <= limit
