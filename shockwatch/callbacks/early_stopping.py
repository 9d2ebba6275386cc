"""Stops a run, or saves it, before the forecast transition."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from shockwatch.callbacks._stage import is_fitting
from shockwatch.callbacks._watched import agreed_step, find_watch
from shockwatch.callbacks.shock_watch import ShockWatch
from shockwatch.errors import require_choice, require_float, require_positive_int
from shockwatch.session import Update, warn
from shockwatch.tags import require_known_tag

_log = logging.getLogger("shockwatch")


@dataclass(frozen=True)
class Patience:
    """Counts consecutive values above a threshold; a pure decision.

    Attributes:
        threshold: a value above it counts.
        limit: how many in a row make the decision.
        count: how many there are now.
    """

    threshold: float
    limit: int
    count: int = 0

    def see(self, value: float) -> Patience:
        """The count after one more value; NaN says nothing and leaves it."""
        if math.isnan(value):
            return self
        return Patience(self.threshold, self.limit, self.count + 1 if value > self.threshold else 0)

    @property
    def reached(self) -> bool:
        """Whether this value made the decision (true once in a row of values)."""
        return self.count == self.limit


class ShockEarlyStopping(Callback):
    """Acts when a tag of ``ShockWatch`` stays above a threshold, in the middle of an epoch if need be.

    Only new values count: one that is merely still published does not wear the patience out. All ranks act at
    the same step. Lightning still honours ``min_epochs`` and ``min_steps`` of the trainer.

    Args:
        monitor: a scalar tag of shockwatch.
        threshold: values above it count.
        patience: how many new values in a row must lie above it.
        action: ``"stop"`` the run, save a ``"checkpoint"`` (once each time the threshold is passed) under
            ``<default_root_dir>/shockwatch/step=N.ckpt``, or ``"both"``. A checkpoint that cannot be written, for
            whatever reason, costs one warning; ``"both"`` still stops.
        min_steps: values of earlier optimiser steps do not count.

    Attributes:
        stopped_step: optimiser step at which the run was stopped, or None.
        reason: why it acted last, or an empty string.
        checkpoints: paths written.

    Raises:
        ValueError: if an argument is out of its range or ``monitor`` is not a tag of shockwatch.
    """

    def __init__(
        self,
        monitor: str = "shock/proximity",
        threshold: float = 1.0,
        patience: int = 3,
        action: Literal["stop", "checkpoint", "both"] = "stop",
        min_steps: int = 0,
    ) -> None:
        self.monitor = require_known_tag("monitor", monitor)
        self.threshold = require_float("threshold", threshold)
        self.patience = require_positive_int("patience", patience)
        self.action = require_choice("action", action, ("stop", "checkpoint", "both"))
        if isinstance(min_steps, bool) or not isinstance(min_steps, int) or min_steps < 0:
            raise ValueError(f"min_steps={min_steps!r}: must be an integer >= 0")
        self.min_steps = min_steps
        self.stopped_step: int | None = None
        self.reason = ""
        self.checkpoints: list[str] = []
        self._state = Patience(self.threshold, self.patience)
        self._pending: list[tuple[int, float]] = []
        self._due = ""
        self._watch: ShockWatch | None = None
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def state_key(self) -> str:
        """One state per monitored tag and action, so that a trainer may hold several."""
        return self._generate_state_key(monitor=self.monitor, action=self.action)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to the trainer's ``ShockWatch``.

        Raises:
            MisconfigurationException: if it has none.
        """
        if stage == "fit":
            self._stop_listening()
            self._watch = find_watch(trainer, self)
            self._unsubscribe = self._watch.subscribe(self._hear)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run from the beginning starts with a full patience."""
        if trainer.global_step == 0:
            self._pending.clear()
            self._state = Patience(self.threshold, self.patience)
            self.stopped_step, self.reason = None, ""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        self._stop_listening()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._stop_listening()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act on the values that are new since the last batch."""
        if self._watch is None or not is_fitting(trainer):
            return
        for step, value in self._pending:
            self._state = self._state.see(value)
            if self._state.reached:
                self._due = (
                    f"{self.monitor} = {value:.4g} at step {step}: above {self.threshold:g} "
                    f"for {self.patience} new values"
                )
        self._pending.clear()
        if agreed_step(trainer, self._watch):
            self._act(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The count, the values not counted yet, and what was done."""
        if self._watch is not None:
            self._watch.catch_up()  # what is published now is not published again after a resume
        return {
            "count": self._state.count,
            "pending": [list(seen) for seen in self._pending],
            "stopped_step": self.stopped_step,
            "checkpoints": list(self.checkpoints),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._state = Patience(self.threshold, self.patience, int(state_dict["count"]))
        # the first releases kept none
        self._pending = [(int(step), float(value)) for step, value in state_dict.get("pending", [])]
        self.stopped_step = state_dict["stopped_step"]
        self.checkpoints = list(state_dict["checkpoints"])

    def _hear(self, update: Update) -> None:
        if self.monitor in update.values and update.step >= self.min_steps:
            self._pending.append((update.step, update.values[self.monitor]))

    def _act(self, trainer: Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(bool(self._due), all=False):
            return
        self.reason, self._due = self._due or f"{self.monitor}: decided by another rank", ""
        if self.action in ("checkpoint", "both"):
            self._save(trainer)
        if self.action in ("stop", "both"):
            trainer.should_stop = True
            self.stopped_step = trainer.global_step
        _log.warning("ShockEarlyStopping (%s) at step %d: %s", self.action, trainer.global_step, self.reason)

    def _save(self, trainer: Trainer) -> None:
        path = Path(trainer.default_root_dir) / "shockwatch" / f"step={trainer.global_step}.ckpt"
        self.checkpoints.append(str(path))
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except Exception as error:
            # a full disk, a state that cannot be pickled, somebody's hook: none is worth the run
            self.checkpoints.pop()
            what = f"{type(error).__name__}: {error}"
            warn(f"shockwatch: no checkpoint at {path} ({what}). The run is not harmed.")
            # where the other ranks wait at the end of save_checkpoint
            trainer.strategy.barrier("Trainer.save_checkpoint")

    def _stop_listening(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._unsubscribe, self._watch = None, None
        self._pending.clear()
        self._due = ""
