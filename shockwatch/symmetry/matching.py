"""Match the units of two networks: linear assignment, axis after axis (Ainsworth et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.groups import (
    GeneralLinear,
    ListPermutation,
    Permutation,
    RealScaling,
    SignFlip,
    SymmetryGroup,
)
from shockwatch.symmetry.order import UnitOrder

_MOST_ROUNDS = 20


def match_units_(
    groups: Sequence[SymmetryGroup],
    state: State,
    reference: State,
    align_: Callable[[State, State], None],
    distance: Callable[[State, State], float],
) -> UnitOrder:
    """Reorder the units of ``state`` in place to lie as near to ``reference`` as coordinate descent brings them.

    Two starts are tried, the order as it is and one from norms alone (which no other group changes), and the
    nearer result is kept.

    Args:
        align_: moves ``state`` along the remaining compact orbits.
        distance: Euclidean distance of two aligned states.

    Returns:
        How units were reordered.
    """
    permutations = [g for g in groups if isinstance(g, Permutation)]
    if not permutations:
        align_(state, reference)
        return UnitOrder()
    linear, signed = _compared(groups)
    starts = []
    for by_norm in (False, True):
        trial = {name: tensor.clone() for name, tensor in state.items()}
        moves: list[tuple[Permutation, Tensor]] = []
        if by_norm:
            for group in permutations:
                moves.append(_reorder_(group, trial, _norm_similarity(group, trial, reference)))
        align_(trial, reference)
        best = distance(trial, reference)
        for _ in range(_MOST_ROUNDS):
            before = len(moves)
            for group in permutations:
                similarity = _similarity(group, linear, signed, trial, reference)
                if not bool((_gains(similarity) == 0).all()):
                    moves.append(_reorder_(group, trial, similarity))
                    align_(trial, reference)
            now = distance(trial, reference)
            if len(moves) == before or now >= best * (1 - 1e-9):
                break
            best = now
        starts.append((distance(trial, reference), trial, moves))
    _, nearest, chosen = min(starts, key=lambda start: start[0])
    state.update(nearest)
    return UnitOrder(chosen)


def possible_gain(groups: Sequence[SymmetryGroup], state: State, reference: State) -> float:
    """By how much the squared distance could fall if every unit of one axis met its likest, turned as is best.

    An upper bound as long as the other axes keep their order. Where an aligned state has its units in their places it
    is next to nothing. In the state's own precision.
    """
    linear, signed = _compared(groups)
    gain = 0.0
    for group in groups:
        if isinstance(group, Permutation):
            similarity = _similarity(group, linear, signed, state, reference, wide=False)
            best = similarity.amax(-1).sum(dtype=torch.float64)
            gain += 2.0 * (float(best) - _overlap(group, state, reference))
    return gain


def _overlap(group: Permutation, state: State, reference: State) -> float:
    """Inner product of the units as they stand."""
    pairs = [
        (piece.view(state), piece.view(reference))
        for piece in group.pieces
        if piece.trainable
        for _ in piece.positions(group.units)
    ]
    if isinstance(group, ListPermutation):
        pairs += zip(group.members(state), group.members(reference), strict=True)
    return sum(float((a * b).sum(dtype=torch.float64)) for a, b in pairs)


def _compared(groups: Sequence[SymmetryGroup]) -> tuple[list[GeneralLinear], set[Atom]]:
    """Linear groups, inside of which units turn freely, and axes whose units may change sign."""
    linear = [g for g in groups if isinstance(g, GeneralLinear)]
    return linear, {axis for g in groups if isinstance(g, (RealScaling, SignFlip)) for axis in g.units}


def _gains(similarity: Tensor) -> Tensor:
    """How much liker the likest unit is than that in the same place; all zero: no other order is better."""
    return similarity.amax(-1) - similarity.diagonal(dim1=-2, dim2=-1)


def _reorder_(group: Permutation, state: State, similarity: Tensor) -> tuple[Permutation, Tensor]:
    orders = np.stack([linear_sum_assignment(block.cpu().numpy(), maximize=True)[1] for block in similarity])
    shape = (*(atom.size for atom in group.batch), group.units.size)
    order = torch.as_tensor(orders).reshape(shape)
    group.permute_(state, order)
    return group, order


def _similarity(
    group: Permutation,
    linear: Sequence[GeneralLinear],
    signed: set[Atom],
    state: State,
    reference: State,
    *,
    wide: bool = True,
) -> Tensor:
    """Inner products of units, ``(batch, n, n)``: row of the reference, column of the state.

    Args:
        wide: in float64; else plain units are compared in the state's own type.
    """
    total: Tensor | None = None
    turned: set[str] = set()
    if isinstance(group, ListPermutation):
        inside = _linear_inside(group, linear)
        names = {piece.name for blocks in inside for block in blocks for piece in block.pieces}
        turned = {piece.label for piece in group.pieces if piece.name in names}
        for blocks in zip(*inside, strict=True):
            rows = [[a.likeness(b, state, reference) for b in blocks] for a in blocks]
            part = torch.stack([torch.stack(row) for row in rows])[None]
            total = part if total is None else total + part
        if total is None and not group.pieces:
            pairs = zip(group.members(reference), group.members(state), strict=True)
            total = torch.stack([(a.double() @ b.double().mT) for a, b in pairs]).sum(0)[None]
    for block in linear:
        # Heads rotate freely inside: compare them by the best rotation (nuclear norm).
        if block.batch == (group.units,) and not group.batch:
            turned |= {piece.label for piece in block.pieces}
            part = block.head_similarity(state, reference)[None]
            total = part if total is None else total + part
    plain: Tensor | None = None
    for piece in group.pieces:
        if piece.label in turned or not piece.trainable:
            continue
        for position in piece.positions(group.units):
            ours, theirs = (group.unit_vectors(piece, s, position) for s in (state, reference))
            part = theirs.double() @ ours.double().mT if wide else theirs @ ours.mT
            plain = part if plain is None else plain + part
    if plain is not None:
        # A unit that may change sign is compared up to its sign.
        plain = plain.abs() if group.units in signed else plain
        total = plain if total is None else total + plain
    assert total is not None
    return total


def _linear_inside(group: ListPermutation, linear: Sequence[GeneralLinear]) -> list[list[GeneralLinear]]:
    """The linear groups of each member of a list, in one order; none where members do not have the same."""
    found: list[list[GeneralLinear]] = [[] for _ in range(group.units.size)]
    for block in linear:
        if (member := group.member_of(block)) is not None:
            found[member].append(block)
    return found if len({len(blocks) for blocks in found}) == 1 else [[] for _ in found]


def _norm_similarity(group: Permutation, state: State, reference: State) -> Tensor:
    ours, theirs = (group.norms(s).sqrt().reshape(-1, group.units.size, 1) for s in (state, reference))
    return -torch.cdist(theirs, ours)
