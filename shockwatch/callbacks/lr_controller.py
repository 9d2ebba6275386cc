"""Lowers the learning rate while a transition is near, and restores it."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from shockwatch.callbacks._scaled_step import ScaledStep
from shockwatch.callbacks._stage import is_fitting
from shockwatch.callbacks._watched import agreed_step, find_watch
from shockwatch.callbacks.shock_watch import ShockWatch
from shockwatch.errors import require_float
from shockwatch.guard import never_raises
from shockwatch.phase.loss_rise import LossRise
from shockwatch.session import PROXIMITY, Update

_log = logging.getLogger("shockwatch")

EDGE_OF_STABILITY = 2.0
"""Gradient descent is stable while ``lr * lambda_max`` is below it."""

SMALLEST_FACTOR = 0.001
RECOVERY = 1.5
NOISE_TARGET = 0.5
"""Share of the way to the edge of small batches: noise is amplified twofold there, fivefold at 0.8."""
LOSSES = 256  # of the latest steps that are kept until a decision

FACTOR_TAG = "shockwatch/lr_factor"


def load(
    values: dict[str, float],
    learning_rate: float,
    target: float,
    gradient_descent: bool,
    interval: float,
    horizon: float,
) -> float:
    """How many times too large the learning rate is: 1 where a bound is just met.

    The bounds: where ``shock/proximity >= target``, the transition is at least ``interval / target`` steps away or
    lasts as long (``shock/arrival_steps``, ``shock/steps``); for gradient descent, ``lr * lambda_max <= 2 target``.
    ``target`` is the same share of the way to the shock, between two measurements, and of the way to the edge of
    stability; both grow in proportion to the learning rate. So a transition cannot outrun the watch; a bound on its
    arrival alone would put it off for ever. NaN where the values say nothing.
    """
    stability = values.get("shock/lr_lambda_max", learning_rate * values.get("shock/lambda_max", math.nan))
    proximity, loads = values.get(PROXIMITY, math.nan), []
    if not math.isnan(proximity):
        times = [values.get(tag, math.nan) for tag in ("shock/arrival_steps", "shock/steps")]
        ahead = max((time for time in times if time > 0.0), default=horizon / max(proximity, target))
        loads.append(interval / (target * ahead) if proximity >= target else 0.0)
    if gradient_descent:
        loads.append(stability / (EDGE_OF_STABILITY * target))
    known = [value for value in loads if not math.isnan(value)]
    return max(known) if known else math.nan


def noisy_load(values: dict[str, float], time_per_step: float) -> float:
    """The load where momentum amplifies gradient noise; NaN without momentum, where this edge is the other one.

    With small batches ``SGD`` with momentum ``b`` is stable up to a curvature of ``2 (1 - b) / lr``, not
    ``2 (1 + b) / lr`` (Andreyev et al. 2026, arXiv:2604.14108): ``time_per_step * lambda_max`` is 2 there.
    """
    stability = time_per_step * values.get("shock/lambda_max", math.nan)
    amplified = stability > values.get("shock/lr_lambda_max", math.nan) * (1.0 + 1e-9)
    return stability / (EDGE_OF_STABILITY * NOISE_TARGET) if amplified else math.nan


def next_factor(current: float, measured_load: float, measured_factor: float) -> float:
    """The factor on the learning rate after a measurement.

    Down at once to where the bounds hold, at least 0.001; up, to at most 1, by at most 1.5 times per
    measurement.

    Args:
        current: factor in force.
        measured_load: see ``load``; NaN changes nothing.
        measured_factor: factor in force when it was measured.
    """
    if math.isnan(measured_load):
        return current
    allowed = measured_factor / measured_load if measured_load > 0.0 else math.inf
    return max(SMALLEST_FACTOR, min(1.0, allowed, current * RECOVERY))


@dataclass(frozen=True)
class _Measured:
    """One measurement: the step it is of, the logger's x there, its load, and that where noise counts."""

    step: int
    axis: int
    load: float
    noisy_load: float = math.nan


def _measured(plain: Sequence[float]) -> _Measured:
    step, axis, *loads = plain
    return _Measured(int(step), int(axis), *map(float, loads))


class ShockLRController(Callback):
    """Passes transitions slowly, and keeps ``lr * lambda_max / 2`` under ``target``, by scaling every learning rate.

    While a transition is near (``shock/proximity`` above ``target``) the rate is such that at most the share
    ``target`` of the way to it, or of its duration, goes by between two measurements: what is behind it, a larger
    curvature perhaps, is then seen in time.

    How much gradient noise lowers the edge is not known beforehand. Once the training loss has clearly risen above
    its lowest level (:class:`~shockwatch.phase.loss_rise.LossRise`) the edge of small batches counts, too, where there
    is momentum: ``lr / (1 - momentum) * lambda_max`` is then kept below 1, half way to it. The loss is read after every
    step (on an accelerator that of the step before, which need not be waited for; with several ranks at every
    snapshot), and the last measurement then counts at once: a run may be lost before the next one.

    The factor is applied for the duration of ``optimizer.step()`` only, whether it ends or raises: schedulers
    (and checkpoints, and LearningRateMonitor) see their own learning rate, so any scheduler composes, and
    nothing is left behind after training. The factor is logged as ``shockwatch/lr_factor``. The bound on
    ``lambda_max`` is used for ``torch.optim.SGD`` only (for Adam the stable range is that of the preconditioned
    Hessian).

    Args:
        target: share of the way through a shock between two measurements, and of the way to the edge of stability,
            that is allowed; in (0, 1].
        dry_run: compute and log the factor, but leave the learning rate alone.

    Attributes:
        factor: on the learning rate, in [0.001, 1].

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, target: float = 0.8, dry_run: bool = False) -> None:
        self.target = require_float("target", target, 0.0, 1.0, open_low=True)
        if not isinstance(dry_run, bool):
            raise ValueError(f"dry_run={dry_run!r}: must be True or False")
        self.dry_run = dry_run
        self.factor = self._proposal = 1.0
        self._broken = False
        self._changes: list[tuple[int, float]] = [(0, 1.0)]
        self._pending: list[_Measured] = []
        self._latest: _Measured | None = None
        self._losses: deque[Tensor] = deque(maxlen=LOSSES)
        self._rise = LossRise()
        self._last_probe: int | None = None
        self._scaled: list[ScaledStep] = []
        self._watch: ShockWatch | None = None
        self._meets: ShockWatch | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to the trainer's ``ShockWatch``.

        Raises:
            MisconfigurationException: if it has none.
        """
        if stage == "fit":
            self._release()
            self._broken = False
            self._watch = self._meets = find_watch(trainer, self)
            self._unsubscribe = self._watch.subscribe(self._hear)

    @never_raises
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take hold of the optimisers; a run from the beginning begins with its own rate."""
        if trainer.global_step == 0:
            self.load_state_dict({"factor": 1.0})
        if self._watch is None or self.dry_run or not is_fitting(trainer):
            return
        for wrapped in trainer.optimizers:
            optimizer = getattr(wrapped, "optimizer", wrapped)
            if isinstance(optimizer, Optimizer):
                self._scaled.append(ScaledStep(optimizer, lambda: self.factor))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide on the values that are new since the last batch; rank zero's decision holds for all."""
        self._remember(outputs)
        if self._meets is None or not agreed_step(trainer, self._meets):
            return
        self._propose(trainer)
        # outside the guard: ranks must meet even if this one has failed, and then all use their own rate
        self._set(
            trainer.global_step, float(trainer.strategy.broadcast(1.0 if self._broken else self._proposal))
        )
        trainer.callback_metrics[FACTOR_TAG] = torch.tensor(self.factor)

    @never_raises
    def _remember(self, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self._meets is not None and isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(
                loss.detach().reshape(())
            )  # read at the next decision: a device is not waited for

    @never_raises
    def _propose(self, trainer: Trainer) -> None:
        self._proposal = self._decide(trainer)

    @never_raises
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the last snapshots, which no step follows, would have asked for."""
        if self._watch is not None:
            trainer.callback_metrics[FACTOR_TAG] = torch.tensor(self._decide(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the optimisers."""
        self._release()
        self._meets = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimisers."""
        self._release()
        self._meets = None

    def state_dict(self) -> dict[str, Any]:
        """The factor in force, its last changes, and what was measured lately or not decided on."""
        if self._watch is not None:
            self._watch.catch_up()  # what is published now is not published again after a resume
        return {
            "factor": self.factor,
            "changes": [list(change) for change in self._changes],
            "last_probe": self._last_probe,
            "pending": [list(astuple(measured)) for measured in self._pending],
            "latest": None if self._latest is None else list(astuple(self._latest)),
            "losses": [float(loss) for loss in self._losses],
            "rise": self._rise.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the factor in force."""
        self.factor = self._proposal = float(state_dict["factor"])
        # the first releases had the factor alone
        changes = state_dict.get("changes", [(0, self.factor)])
        self._changes = [(int(step), float(factor)) for step, factor in changes]
        self._last_probe = state_dict.get("last_probe")
        self._pending = [_measured(plain) for plain in state_dict.get("pending", [])]
        latest = state_dict.get("latest")
        self._latest = None if latest is None else _measured(latest)
        self._losses = deque(map(torch.tensor, state_dict.get("losses", [])), maxlen=LOSSES)
        self._rise = LossRise()
        if "rise" in state_dict:
            self._rise.load_state_dict(state_dict["rise"])

    def _hear(self, update: Update) -> None:
        if self._watch is None:
            return
        settings, since = self._watch.settings, self._last_probe
        # the next measurement is about as far ahead as the last one is behind; what is a horizon away is not near
        interval = (
            settings.every_n_steps if since is None else max(update.step - since, settings.every_n_steps)
        )
        if PROXIMITY in update.values:
            self._last_probe = update.step
        measured = load(
            update.values,
            update.learning_rate,
            self.target,
            update.gradient_descent,
            min(interval, settings.horizon),
            settings.horizon,
        )
        noisy = noisy_load(update.values, update.time_per_step)
        self._pending.append(_Measured(update.step, update.axis, measured, noisy))

    def _decide(self, trainer: Trainer) -> float:
        """The factor after the new values; logs it for each of them."""
        factor = self.factor
        unread = 1 if self._losses and self._losses[-1].device.type != "cpu" else 0
        self._rise.update([float(self._losses.popleft()) for _ in range(len(self._losses) - unread)])
        if self._rise.seen and self._latest is not None:
            # changes nothing but in the step of the rise: a measurement that is decided on is heeded
            factor = min(factor, self._after(factor, self._latest))
        for measured in self._pending:
            factor = self._after(factor, measured)
            if not (math.isnan(measured.load) and math.isnan(measured.noisy_load)):
                self._latest = measured
            for logger in trainer.loggers:
                logger.log_metrics({FACTOR_TAG: factor}, step=measured.axis)
        self._pending.clear()
        return factor

    def _after(self, factor: float, measured: _Measured) -> float:
        loads = (measured.load, measured.noisy_load if self._rise.seen else math.nan)
        worst = max((value for value in loads if not math.isnan(value)), default=math.nan)
        return next_factor(factor, worst, self._factor_at(measured.step))

    def _set(self, step: int, factor: float) -> None:
        if factor == self.factor:
            return
        _log.info("ShockLRController: factor %.4g -> %.4g from step %d on", self.factor, factor, step)
        self.factor = factor
        self._changes = [*self._changes[-31:], (step, factor)]

    def _factor_at(self, step: int) -> float:
        """The factor that was in force in the step that led to ``step``."""
        if self.dry_run:
            return 1.0
        older = [factor for since, factor in self._changes if since < step]
        return older[-1] if older else self._changes[0][1]

    def _release(self) -> None:
        for scaled in self._scaled:
            scaled.release()
        self._scaled.clear()
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._unsubscribe, self._watch = None, None
        self._pending.clear()
