"""Where the results of a watched run go: loggers, ``callback_metrics``, listeners."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import shutil
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

from shockwatch.alerts import Alert, Sink, Sinks
from shockwatch.callbacks._sinks import sinks_of
from shockwatch.session import PROXIMITY, Update, warn
from shockwatch.tensorboard import as_writer, write_layout, write_pictures, write_scalars, write_texts

SPARED_BYTES = 16 << 20
"""So much room on a logger's disk is left to the run."""


class Publisher:
    """Main thread only.

    Args:
        on_alert: the user's own sink.

    Attributes:
        alerts: all alerts so far.
        values: latest value of every tag.
        listeners: called with every update, in step order.
    """

    def __init__(self, on_alert: Sink | None = None) -> None:
        self._on_alert = on_alert
        self._outlets = Sinks()
        self.listeners: list[Callable[[Update], None]] = []
        self.alerts: list[Alert] = []
        # a monitor may read it before the first result: it is finite from the start, and stays so
        self.values: dict[str, float] = {PROXIMITY: 0.0}
        self._metrics: dict[str, Tensor] = _as_metrics(self.values)
        self._unwritten: deque[Update] = deque()
        self._described: weakref.WeakSet[Any] = weakref.WeakSet()
        self._warned: set[str] = set()

    def reset(self) -> None:
        """Forget a former run; listeners stay."""
        self.alerts, self.values = [], {PROXIMITY: 0.0}
        self._metrics = _as_metrics(self.values)
        self._unwritten.clear()
        self._warned.clear()

    @property
    def unwritten(self) -> bool:
        """Whether an interrupt left something to be written."""
        return bool(self._unwritten)

    def describe_charts(self, trainer: Trainer) -> None:
        """Write the custom-scalars layout, once per TensorBoard writer."""
        for logger in trainer.loggers:
            try:
                writer = as_writer(getattr(logger, "experiment", None))
                if writer is not None and writer not in self._described:
                    write_layout(writer)
                    self._described.add(writer)
            except Exception as error:
                self._warn_once(f"{type(logger).__name__} did not take the charts' layout", error)

    def publish(self, trainer: Trainer, updates: Sequence[Update]) -> None:
        """Write each update at its snapshot's step, tell the listeners, refresh ``callback_metrics``."""
        for update in updates:
            self.values.update(update.values)
            self._metrics.update(_as_metrics(update.values))
            self.alerts.extend(update.alerts)
            self._unwritten.append(update)
            self._tell(update)
        if updates:
            self.republish(trainer)
        # what an interrupt cuts off is written by the next call: at the end of the run at the latest
        while self._unwritten:
            self._log(trainer, self._unwritten[0])
            if self._unwritten[0].alerts:
                self._outlets.send(self._unwritten[0].alerts, sinks_of(trainer, self._on_alert))
            self._unwritten.popleft()

    def republish(self, trainer: Trainer) -> None:
        """Put the latest values where monitoring callbacks read them; Lightning may have cleared them."""
        trainer.callback_metrics.update(self._metrics)

    def state_dict(self) -> dict[str, Any]:
        """Alerts and values, as plain types."""
        return {"alerts": [dataclasses.asdict(alert) for alert in self.alerts], "values": dict(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo ``state_dict``."""
        self.alerts = [Alert(**alert) for alert in state["alerts"]]
        self.values = {str(tag): float(value) for tag, value in state["values"].items()}
        self._metrics = _as_metrics({PROXIMITY: 0.0}) | _as_metrics(self.values)

    def _tell(self, update: Update) -> None:
        for listener in list(self.listeners):
            try:
                listener(update)
            except Exception as error:
                self.listeners.remove(listener)
                self._warn_once(f"a listener failed and hears nothing more: {listener!r}", error)

    def _log(self, trainer: Trainer, update: Update) -> None:
        for logger in trainer.loggers:
            try:
                _require_space(logger)
                writer = as_writer(getattr(logger, "experiment", None))
                if writer is not None and _writes_plainly(logger):
                    prefix = f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""
                    write_scalars(writer, {prefix + tag: v for tag, v in update.values.items()}, update.axis)
                else:
                    logger.log_metrics(update.values, step=update.axis)
                if writer is not None:
                    write_texts(writer, update.alerts, update.notes, update.axis)
                    write_pictures(writer, update.pictures, update.axis)
            except Exception as error:
                self._warn_once(f"{type(logger).__name__} did not take the values", error)

    def _warn_once(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warn(f"shockwatch: {what} ({type(error).__name__}: {error}). Training goes on.")


def _require_space(logger: Logger) -> None:
    """Raise ``OSError`` if little room is left on the logger's disk: the last of it belongs to the run.

    A writer that meets a full disk may fail the user's own next write, or the end of the run.
    """
    place = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None)
    if not isinstance(place, (str, os.PathLike)):
        return
    folder = Path(place).absolute()
    while not folder.exists():
        folder = folder.parent
    if shutil.disk_usage(folder).free < SPARED_BYTES:
        raise OSError(errno.ENOSPC, f"less than {SPARED_BYTES >> 20} MiB are left on the disk", str(folder))


def _writes_plainly(logger: Logger) -> TypeGuard[TensorBoardLogger]:
    """Whether ``log_metrics`` is Lightning's own, which writes a point at a time."""
    own = isinstance(logger, TensorBoardLogger) and "log_metrics" not in vars(logger)
    return own and type(logger).log_metrics is TensorBoardLogger.log_metrics


def _as_metrics(values: Mapping[str, float]) -> dict[str, Tensor]:
    """NaN is left out: the last value that said something stays."""
    return {tag: torch.tensor(value) for tag, value in values.items() if not math.isnan(value)}
