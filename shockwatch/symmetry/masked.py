"""Groups that the loss does not see, but its gradient does: a table's padding row gets no gradient.

``nn.Embedding(padding_idx=...)`` leaves out what the row of the padding word would get. Where that word does occur in
a batch, training moves along directions in which the loss does not change.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shockwatch.norms import square_norm
from shockwatch.snapshot import State
from shockwatch.symmetry.generic import generic_point, widened
from shockwatch.symmetry.groups import ContinuousGroup, SymmetryGroup
from shockwatch.symmetry.unread import tables
from shockwatch.tracing import StepLoss, Trace

_EXACT = 1e-9
_SEED = 20260618
_MOST = 4_000_000  # parameters: above it a gradient in float64 takes more memory than inference may


def mark_masked(
    groups: Sequence[SymmetryGroup], trace: Trace, batch: Any, state: State, fixed: State
) -> None:
    """Mark groups approximate along which the gradient of the step has a component, because a row is left out.

    Their residual becomes the share of the left-out gradient that runs along them.

    Args:
        state: what groups move.
        fixed: everything else.
    """
    masked = [name for name, (_, readers) in tables(trace).items() if any(_padding(r) >= 0 for r in readers)]
    if not masked or sum(state[name].numel() for name in trace.trainable) > _MOST:
        return
    generator = torch.Generator().manual_seed(_SEED)
    point = {**widened(state), **generic_point({n: state[n] for n in trace.trainable}, generator)}
    frozen = widened(fixed)
    wide = trace.in_dtype(torch.float64)
    _, with_mask = StepLoss(wide, batch).gradient(point, frozen)
    _, without = StepLoss(_unmasked(wide), batch).gradient(point, frozen)
    left_out = {n: a - b for n, a, b in zip(trace.trainable, without, with_mask, strict=True) if n in masked}
    for group in groups:
        own = [name for name in masked if name in group.parameters]
        if isinstance(group, ContinuousGroup) and own:
            share = _share(group, point, {name: left_out[name] for name in own})
            if share > _EXACT:
                group.approximate = True
                group.residual = max(group.residual, share)
                group.evidence += f"; the gradient of {', '.join(own)} leaves out its padding row"


def _share(group: ContinuousGroup, point: State, left_out: State) -> float:
    """Norm of the part of ``left_out`` along the group, relative to all of it."""
    size = sum(square_norm(part) for part in left_out.values())
    if size == 0.0:
        return 0.0
    tangent = {n: left_out[n] if n in left_out else torch.zeros_like(point[n]) for n in group.parameters}
    with torch.no_grad():
        adjoint = group.adjoint(point, tangent)
        along: Tensor = (adjoint * group.solve_gram(adjoint, point)).sum()
    return float((along.clamp_min(0.0) / size).sqrt())


def _padding(reader: Any) -> int:
    value = reader.args[2] if len(reader.args) > 2 else reader.kwargs.get("padding_idx", -1)
    return int(value)


def _unmasked(trace: Trace) -> Trace:
    graph = copy.deepcopy(trace.graph)
    for node in graph.graph.nodes:
        if str(node.target) == "aten.embedding.default":
            node.args = (*node.args[:2], -1, *node.args[3:])
    graph.recompile()
    return replace(trace, graph=graph)
