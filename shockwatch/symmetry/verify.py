"""Measure the invariance of every inferred group: what the graph suggests is kept only if the loss agrees."""

from __future__ import annotations

import logging
import math

import torch

from shockwatch.snapshot import State
from shockwatch.symmetry.groups import SymmetryGroup
from shockwatch.tracing import StepLoss

_log = logging.getLogger("shockwatch")

# An exact group's residual is rounding; a norm's eps leaves more, and is stated with the group.
_TOLERANCE = 1e-7
_TOLERANCE_APPROXIMATE = 3e-2
_TRIALS = 2


def generic_point(state: State, generator: torch.Generator) -> State:
    """``state`` in float64 with a little noise: at zero-initialised weights anything would pass."""
    point: State = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            point[name] = tensor.detach().clone()
            continue
        wide = tensor.detach().double()
        size = wide.std() if wide.numel() > 1 else wide.abs().max()
        size = torch.where(torch.isfinite(size) & (size > 0), size, torch.full_like(size, 0.1))
        noise = torch.randn(wide.shape, generator=generator, dtype=torch.float64).to(wide.device)
        point[name] = torch.nan_to_num(wide) + 0.3 * size * noise
    return point


class Verifier:
    """Measures groups at one generic point, in float64.

    Args:
        loss: the step in float64.
        state: trainable parameters and running statistics.
        fixed: everything else.
    """

    def __init__(self, loss: StepLoss, state: State, fixed: State, seed: int) -> None:
        self._loss = loss
        self._generator = torch.Generator().manual_seed(seed)
        self._point = generic_point(state, self._generator)
        for name, tensor in state.items():
            # A running variance stays one.
            if name.endswith("running_var"):
                self._point[name] = tensor.detach().double().abs() + 0.1
        self._fixed = {
            n: t.detach().double() if t.is_floating_point() else t.detach() for n, t in fixed.items()
        }
        self._base = loss.value(self._point, self._fixed)

    def residual(self, group: SymmetryGroup) -> float:
        """Largest relative change of the loss under random elements of ``group``.

        Infinite where the loss is not finite, or the group cannot be applied: a group that fails on its own pieces
        is refused like one that moves the loss.
        """
        try:
            return max(self._change(group) for _ in range(_TRIALS))
        except (RuntimeError, ValueError, IndexError, KeyError):
            _log.debug("%s %s cannot be applied", group.kind, group.name, exc_info=True)
            return math.inf

    def _change(self, group: SymmetryGroup) -> float:
        moved = {n: t.clone() if n in group.parameters else t for n, t in self._point.items()}
        with torch.no_grad():
            group.transform_(moved, self._generator, 0.5)
        change = abs(self._loss.value(moved, self._fixed) - self._base) / max(abs(self._base), 1e-12)
        return change if math.isfinite(change) else math.inf


def holds(group: SymmetryGroup, residual: float) -> bool:
    """Whether a measured residual is what the group's evidence promises."""
    return residual < (_TOLERANCE_APPROXIMATE if group.approximate else _TOLERANCE)
