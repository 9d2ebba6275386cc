"""Groups of a step whose path depends on its data, checked on the module itself and on other batches.

The graph of such a step is the path that one batch took. What it shows may fail where a branch goes the other way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.generic import generic_point
from shockwatch.symmetry.groups import SymmetryGroup
from shockwatch.symmetry.oracle import redrawn
from shockwatch.symmetry.verify import Action, action, holds
from shockwatch.tracing import Replay, StepLoss, Trace

# Other batches: redrawn with these scales of the floating-point entries.
_SCALES = (1.0, -1.0, 0.1, 3.0, 1.0, 1.0)
_TRIALS = 2
_SIZE = 0.5
# Runs of the module in all: the training thread waits for them. Groups undecided then are refused.
_RUNS = 256
# Relative change of the loss that is rounding, where the module does not run in double precision.
_SINGLE = 1e-4


class PathCheck:
    """Applies groups to the module itself, on the traced batch and on redrawn ones.

    Runs user code: for the main thread. All groups are applied at once; only where the loss then changes are they
    told apart, by halves. What was asked once is remembered, so one question about many groups is cheaper than many.

    Args:
        replay: the step.
        state: every tensor of the model.
        batch: the traced batch.
        seed: of points, batches and group elements.
    """

    def __init__(self, replay: Replay, state: Mapping[str, Tensor], batch: Any, seed: int) -> None:
        self._step = replay.step
        self._generator = torch.Generator().manual_seed(seed)
        own = {name: state[name] for name, p in replay.step.parameters.items() if p.requires_grad}
        self._batches: list[tuple[Any, float]] = []
        self._known: dict[Action, tuple[bool, float]] = {}
        self._left = _RUNS
        self._dtype = torch.float64
        for dtype in (torch.float64, torch.float32):
            self._dtype = dtype
            point = generic_point(own, self._generator)
            self._point: State = {n: _cast(t.detach(), dtype) for n, t in {**state, **point}.items()}
            first = self._value(self._point, batch)
            if first is not None:
                self._batches.append((batch, first))
                break
        for scale in _SCALES if self._batches else ():
            other = _scaled(redrawn(batch, self._generator), scale)
            if (value := self._value(self._point, other)) is not None:
                self._batches.append((other, value))

    @property
    def others(self) -> int:
        """Other batches on which the module gave a finite loss."""
        return max(len(self._batches) - 1, 0)

    @property
    def exhausted(self) -> bool:
        """Whether groups may have been refused for want of further runs."""
        return self._left <= 0

    def changed_paths(self, trace: Trace) -> int:
        """On how many of them the graph does not give the module's loss: there the path is another one."""
        graph = trace if trace.dtype is self._dtype else trace.in_dtype(self._dtype)
        differ = 0
        for batch, expected in self._batches[1:]:
            try:
                given = StepLoss(graph, batch).value(self._point, self._point)
            except Exception:
                given = math.nan
            differ += not math.isclose(given, expected, rel_tol=self._rounding, abs_tol=1e-9)
        return differ

    def split(
        self, groups: Sequence[SymmetryGroup]
    ) -> tuple[tuple[SymmetryGroup, ...], tuple[SymmetryGroup, ...]]:
        """``groups`` that leave the module's loss alone on every batch, and those that do not."""
        for approximate in (False, True):
            asked = [g for g in groups if g.approximate == approximate and action(g) not in self._known]
            before = [g.residual for g in asked]
            intact = {id(g) for g in self._intact(asked)}
            for group, residual in zip(asked, before, strict=True):
                seen = group.residual if group.residual > residual else 0.0
                self._known[action(group)] = (id(group) in intact, seen)
        for group in groups:
            group.residual = max(group.residual, self._known[action(group)][1])
        held = [self._known[action(group)][0] for group in groups]
        kept = tuple(g for g, holding in zip(groups, held, strict=True) if holding)
        return kept, tuple(g for g, holding in zip(groups, held, strict=True) if not holding)

    def _intact(self, groups: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
        if not groups:
            return []
        residual = 0.0
        for _ in range(_TRIALS):
            residual = max(residual, self._change(groups))
            if not self._tolerated(groups, residual):
                break
        if len(groups) == 1:
            groups[0].residual = max(groups[0].residual, residual if residual > self._rounding else 0.0)
        if self._tolerated(groups, residual):
            return list(groups)
        half = len(groups) // 2
        return [] if half == 0 else [*self._intact(groups[:half]), *self._intact(groups[half:])]

    def _tolerated(self, groups: Sequence[SymmetryGroup], residual: float) -> bool:
        single = self._dtype is not torch.float64 and residual < _SINGLE
        return single or all(holds(group, residual) for group in groups)

    @property
    def _rounding(self) -> float:
        return 1e-9 if self._dtype is torch.float64 else _SINGLE

    def _change(self, groups: Sequence[SymmetryGroup]) -> float:
        names = {name for group in groups for name in group.parameters}
        moved = {n: t.clone() if n in names else t for n, t in self._point.items()}
        with torch.no_grad():
            for group in groups:
                group.transform_(moved, self._generator, _SIZE)
        worst = 0.0 if self._batches else math.inf
        for batch, before in self._batches:
            after = self._value(moved, batch)
            change = math.inf if after is None else abs(after - before) / max(abs(before), 1e-12)
            worst = max(worst, change)
            if not self._tolerated(groups, worst):
                break
        return worst

    def _value(self, state: State, batch: Any) -> float | None:
        if self._left <= 0:
            return None
        self._left -= 1
        data = pytree.tree_map_only(Tensor, lambda t: _cast(t, self._dtype), batch)
        try:
            value = self._step.value(state, data)
        except Exception:
            # a batch or a type the module does not take says nothing about its groups
            return None
        return value if math.isfinite(value) else None


def report(trace: Trace, check: PathCheck, refused: Sequence[SymmetryGroup]) -> str:
    """One paragraph on how such a step was read."""
    assert trace.replay is not None
    parts = [
        f"the training step cannot be traced without its values ({trace.replay.reason}): it was traced along the path "
        f"that one batch takes, and groups were checked on the module itself with it and {check.others} other batches"
    ]
    if check.exhausted:
        parts.append(f"after {_RUNS} runs of the module the groups not decided by then are refused")
    if differ := check.changed_paths(trace):
        parts.append(f"{differ} of them take another path")
    if refused:
        names = ", ".join(f"{g.kind} {g.name} ({g.residual:.1e})" for g in refused)
        parts.append(f"refused there: {names}")
    if not trace.replay.follows_parameters:
        parts.append("the path depends on the parameters, or hides operators from the trace: no curvature")
    return "; ".join(parts) + "."


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _scaled(batch: Any, scale: float) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: scale * t if t.is_floating_point() else t, batch)
