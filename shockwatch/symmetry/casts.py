"""Groups that hold only to the precision of a cast inside the model.

A model in double precision may compute its norms or its loss in single precision. Our own evaluation removes such
casts, so that a group shows whether it is one. What training sees is the rounded numbers: a group that changes what
goes into a cast is exact only to the precision of that cast.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from shockwatch.snapshot import State
from shockwatch.symmetry.generic import generic_point, widened
from shockwatch.symmetry.groups import SymmetryGroup
from shockwatch.tracing import StepLoss, Trace

# Between the rounding of a path in float64 (1e-15 and little more) and a change that a group means.
_CHANGED = 1e-11
_SEED = 20260618


def mark_rounded(
    groups: Sequence[SymmetryGroup], trace: Trace, batch: Any, state: State, fixed: State
) -> None:
    """Mark groups approximate that change numbers which a cast to a coarser type rounds.

    Their residual becomes the change of the loss in the model's own arithmetic, and no less than the precision of the
    coarsest cast they run through: below it nothing can be measured. Models without such casts are left alone.

    Args:
        state: what groups move.
        fixed: everything else.
    """
    casts = trace.casts()
    if not casts:
        return
    generator = torch.Generator().manual_seed(_SEED)
    state = {**widened(state), **generic_point({n: state[n] for n in trace.trainable}, generator)}
    fixed = widened(fixed)
    watched = _Inputs(trace, casts, batch)
    literal = StepLoss(trace.in_dtype(torch.float64, keep_casts=True), batch)
    before, base = watched(state, fixed), literal.value(state, fixed)
    for group in groups:
        moved = {n: t.clone() if n in group.parameters else t for n, t in state.items()}
        with torch.no_grad():
            group.transform_(moved, generator, 0.5)
        rounded = [
            cast
            for cast, old, new in zip(casts, before, watched(moved, fixed), strict=True)
            if bool((old - new).norm() > _CHANGED * old.norm())
        ]
        if rounded:
            precision = max(torch.finfo(cast.meta["val"].dtype).eps for cast in rounded)
            change = abs(literal.value(moved, fixed) - base) / max(abs(base), 1e-12)
            group.approximate = True
            group.residual = max(group.residual, change, precision)
            names = dict.fromkeys(str(cast.meta["val"].dtype).removeprefix("torch.") for cast in rounded)
            group.evidence += f"; rounded to {', '.join(names)} on its way ({len(rounded)} casts)"


class _Inputs:
    """What the casts of a step get, in float64."""

    def __init__(self, trace: Trace, casts: Sequence[fx.Node], batch: Any) -> None:
        wide = trace.in_dtype(torch.float64)
        graph = copy.deepcopy(wide.graph)
        by_name = {node.name: node for node in graph.graph.nodes}
        output = by_name["output"]
        sources = [_source(cast) for cast in casts]
        self._sizes = [source.meta["val"].numel() for source in sources]
        with graph.graph.inserting_before(output):
            flat = [graph.graph.call_function(_flatten, (by_name[source.name],)) for source in sources]
            output.args = ([graph.graph.call_function(torch.cat, (flat,))],)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        self._step = StepLoss(replace(wide, graph=graph), batch)

    def __call__(self, state: State, fixed: State) -> tuple[Tensor, ...]:
        return torch.split(self._step.output(state, fixed), self._sizes)


def _flatten(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).double()


def _source(cast: fx.Node) -> fx.Node:
    """The finest of its inputs."""
    floating = [n for n in cast.all_input_nodes if _floating(n.meta.get("val"))]
    return min(floating, key=lambda n: torch.finfo(n.meta["val"].dtype).eps)


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
