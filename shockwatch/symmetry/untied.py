"""Groups that tied weights hide: a square map between two streams which one tensor, used twice, makes one.

Where the words of a model are also its output layer, the stream they enter and the stream they read have the features
of one axis. A square map from the one to the other then carries that axis twice, and says nothing about it. A second
look at the step holds tensors that are used twice fixed and keeps their uses apart: what it finds on square maps is
added to what the first look found.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from shockwatch.symmetry.analysis import Analysis
from shockwatch.symmetry.charges import Span
from shockwatch.symmetry.groups import (
    BiasTransport,
    ContinuousGroup,
    GeneralLinear,
    ScalingGroup,
    SymmetryGroup,
)
from shockwatch.symmetry.pieces import Piece
from shockwatch.tracing import Trace


def _square(piece: Piece) -> bool:
    return piece.trainable and len(set(piece.atoms)) < len(piece.atoms)


def hidden_behind(trace: Trace, analysis: Analysis) -> tuple[str, ...]:
    """Tensors to be held fixed in a second look: used more than once, where some map carries an axis twice."""
    if not any(_square(piece) for piece in analysis.pieces):
        return ()
    inputs = [node for node in trace.graph.graph.nodes if node.op == "placeholder"]
    named = zip(trace.trainable, inputs, strict=False)
    return tuple(name for name, node in named if len(node.users) > 1)


def newly_seen(
    analysis: Analysis, kept: Sequence[SymmetryGroup], hidden: Sequence[SymmetryGroup]
) -> list[SymmetryGroup]:
    """The groups of the second look that move a square map and that the first look has not."""
    square = {piece.label for piece in analysis.pieces if _square(piece)}
    known = {_moves(group) for group in kept}
    return [
        group
        for group in hidden
        if isinstance(group, ContinuousGroup)
        and not _is_whole(group)
        and _moves(group) not in known
        and any(piece.label in square for piece in _involved(group))
    ]


def _involved(group: SymmetryGroup) -> list[Piece]:
    """The pieces a group moves, and the weights that carry its shifts."""
    path = group.transport if isinstance(group, BiasTransport) else None
    steps = [step for sink in path.sinks for step in sink.steps] if path is not None else []
    return [*group.pieces, *(step.weight for step in steps if step.weight is not None)]


def without_contained(kept: Sequence[SymmetryGroup], seen: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """``kept`` without the factors for whole tensors that unit-wise groups of the second look contain."""
    keys: dict[str, int] = {}
    span = Span()

    def charges(group: ScalingGroup | GeneralLinear) -> dict[int, Fraction]:
        members = zip(group.pieces, group.charges, strict=True)
        return {keys.setdefault(p.label, len(keys)): Fraction(q) for p, q in members if p.trainable}

    for group in (*kept, *seen):
        if isinstance(group, (ScalingGroup, GeneralLinear)) and not _is_whole(group):
            span.add(charges(group))
    return [g for g in kept if not isinstance(g, ScalingGroup) or not _is_whole(g) or span.add(charges(g))]


def _is_whole(group: SymmetryGroup) -> bool:
    return isinstance(group, ScalingGroup) and not group.units


def _moves(group: SymmetryGroup) -> tuple[str, frozenset[str]]:
    return group.kind, frozenset(piece.label for piece in group.pieces)
