"""The clock of training: time advances by the learning rate (theory.md 4)."""

from __future__ import annotations

import math
import sys
import weakref
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from shockwatch.pace import Pace

_READ = ("momentum", "dampening", "nesterov", "weight_decay", "maximize", "decoupled_weight_decay")


class TrainingClock:
    """Sums the effective learning rate ``lr (1 - dampening) / (1 - momentum)`` over the optimiser's steps.

    It listens to the optimisers themselves (a post-step hook), so that a step skipped by a gradient
    scaler does not count, and the learning rate is the one the step used. An optimiser whose ``step`` calls
    ``super().step()`` has its hooks called for both; only the outer one counts.

    Attributes:
        training_time: the sum so far; the largest value over the parameter groups at each step.
        time_per_step: effective learning rate of the last step; NaN unless it was ``torch.optim.SGD``.
        learning_rate: largest ``lr`` over the parameter groups at the last step.
        pace: see :func:`pace_of`, of the last step; None before the first.
        stability_rate: see :func:`stability_rate`, of the last step; NaN before the first.
        weight_decay: see :func:`coupled_weight_decay`, of the last step.
    """

    def __init__(self) -> None:
        self.training_time = 0.0
        self.time_per_step = math.nan
        self.learning_rate = math.nan
        self.pace: Pace | None = None
        self.stability_rate = math.nan
        self.weight_decay = 0.0
        self._handles: list[RemovableHandle] = []
        self._listened: list[weakref.ref[Optimizer]] = []
        self._seen: tuple[Optimizer, list[Any]] | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """The attributes, by name, as a :class:`~shockwatch.snapshot.Snapshot` takes them."""
        names = ("training_time", "time_per_step", "learning_rate", "pace", "stability_rate", "weight_decay")
        return {name: getattr(self, name) for name in names}

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those of ``listen`` that are still alive."""
        alive = (reference() for reference in self._listened)
        return tuple(optimizer for optimizer in alive if optimizer is not None)

    def listen(self, optimizers: list[Optimizer]) -> None:
        """Advance at every step these optimisers take, until ``stop``."""
        self.stop()
        self._listened = []
        for optimizer in optimizers:
            if isinstance(optimizer, Optimizer):
                self._listened.append(weakref.ref(optimizer))
                hook = self._after_inner_step if _steps_within(optimizer) else self._after_step
                self._handles.append(optimizer.register_step_post_hook(hook))

    def stop(self) -> None:
        """Take the hooks off the optimisers."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen = None

    def advance(self, optimizer: Optimizer) -> None:
        """Count one step of ``optimizer``."""
        seen = [(float(group["lr"]), *map(group.get, _READ)) for group in optimizer.param_groups]
        # worked out anew only where a setting has changed: it is asked at every step
        if self._seen != (optimizer, seen):
            self._read(optimizer)
            self._seen = (optimizer, seen)
        self.training_time += self.learning_rate if self.pace is None else self.time_per_step

    def _read(self, optimizer: Optimizer) -> None:
        self.learning_rate = max(float(group["lr"]) for group in optimizer.param_groups)
        self.pace = pace_of(optimizer)
        self.stability_rate = stability_rate(optimizer)
        self.weight_decay = coupled_weight_decay(optimizer)
        self.time_per_step = math.nan if self.pace is None else self.pace.time_per_step

    def state_dict(self) -> dict[str, float]:
        """The clock's reading, as plain floats."""
        return {
            "training_time": self.training_time,
            "time_per_step": self.time_per_step,
            "learning_rate": self.learning_rate,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from the reading of ``state_dict``."""
        self.training_time = float(state["training_time"])
        self.time_per_step = float(state["time_per_step"])
        self.learning_rate = float(state["learning_rate"])

    def _after_inner_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not _inside_another_step(optimizer):
            self._after_step(optimizer, args, kwargs)

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self.advance(optimizer)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            # an optimiser without a usable lr has no clock of ours; its step must not fail for it
            self._seen = self.pace = None
            self.time_per_step = math.nan
            self.stability_rate = math.nan


def _steps_within(optimizer: Optimizer) -> bool:
    """Whether its ``step`` may call that of another class it derives from."""
    return sum("step" in vars(kind) for kind in type(optimizer).__mro__ if kind is not Optimizer) > 1


def _inside_another_step(optimizer: Optimizer) -> bool:
    """Whether torch's wrapper of a step, which has called the hook that asks, runs within another one.

    Read off the stack: a count kept in the hooks would be wrong for good after a step that raises, which has no post
    hook.
    """
    wrapper = sys._getframe(2)
    frame = wrapper.f_back
    while frame is not None:
        if frame.f_code is wrapper.f_code and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


def pace_of(optimizer: Optimizer) -> Pace | None:
    """The pace of ``torch.optim.SGD``, of its fastest parameter group; None for every other optimiser."""
    if not isinstance(optimizer, torch.optim.SGD):
        return None
    return max((_pace(group) for group in optimizer.param_groups), key=lambda pace: pace.time_per_step)


def _pace(group: dict[str, Any]) -> Pace:
    rate, momentum = float(group["lr"]), float(group.get("momentum", 0.0))
    if momentum == 0.0:  # torch reads neither dampening nor nesterov then
        return Pace(rate)
    return Pace(
        rate * (1.0 - float(group.get("dampening", 0.0))), momentum, bool(group.get("nesterov", False))
    )


def stability_rate(optimizer: Optimizer) -> float:
    """The rate ``r`` for which ``r * lambda_max = 2`` is the edge of stability of gradient descent.

    Where the loss has curvature ``lambda`` the iteration of ``torch.optim.SGD`` with momentum ``b`` is stable below

    - ``lr lambda = 2`` without momentum, so ``r = lr``;
    - ``lr (1 - dampening) lambda = 2 (1 + b)`` (Polyak's heavy ball), so ``r = lr (1 - dampening) / (1 + b)``;
    - ``lr lambda = 2 (1 + b) / (1 + 2 b)`` (Nesterov as torch has it), so ``r = lr (1 + 2 b) / (1 + b)``

    (Cohen et al. 2021, section 2). The largest over the parameter groups. NaN for every other optimiser, whose edge
    is not one of the plain Hessian (for Adam see :mod:`shockwatch.curvature.preconditioned`), and for ``maximize``.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return math.nan
    rates = [_stability_rate(group) for group in optimizer.param_groups]
    return math.nan if any(math.isnan(rate) for rate in rates) else max(rates)


def _stability_rate(group: dict[str, Any]) -> float:
    if group.get("maximize", False):
        return math.nan
    pace = _pace(group)
    ahead = 2.0 if pace.nesterov else 0.0
    return pace.rate * (1.0 + ahead * pace.momentum) / (1.0 + pace.momentum)


def coupled_weight_decay(optimizer: Optimizer) -> float:
    """The ``w`` for which the optimiser goes down ``L + w |theta|^2 / 2``, as ``weight_decay`` of ``SGD`` and ``Adam``.

    0 where the decay is decoupled (``AdamW``): it then belongs to no loss. NaN where parameter groups differ.
    """
    decays = {group_weight_decay(optimizer, group) for group in optimizer.param_groups}
    return decays.pop() if len(decays) == 1 else math.nan


def group_weight_decay(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """:func:`coupled_weight_decay` of one parameter group."""
    return 0.0 if _decoupled(optimizer, group) else float(group.get("weight_decay", 0.0))


def _decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    # an optimiser from elsewhere is not read: many decouple
    known = isinstance(optimizer, (torch.optim.SGD, torch.optim.Adam)) and not isinstance(
        optimizer, torch.optim.AdamW
    )
    return not known or bool(group.get("decoupled_weight_decay", False))
