"""The same watch for a plain PyTorch loop."""

from __future__ import annotations

import atexit
import dataclasses
import os
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from shockwatch import session
from shockwatch.alerts import Alert, AlertManager, Alerts, JsonLines, Sink, Sinks, to_logging
from shockwatch.budget import Probe
from shockwatch.clock import TrainingClock
from shockwatch.errors import require_positive_int
from shockwatch.memory import Memory
from shockwatch.replica import private_batch, private_copy, unsharded_copy
from shockwatch.session import LossFunction
from shockwatch.shards import is_sharded
from shockwatch.symmetry import Declared
from shockwatch.tensorboard import Writer, as_writer, write_layout, write_pictures, write_scalars, write_texts
from shockwatch.worker import Analysis

if TYPE_CHECKING:
    from shockwatch.ranks import Ranks


class ShockMonitor:
    """Watches a training loop; call ``step`` after every ``optimizer.step()``.

    ::

        with ShockMonitor(model, loss_fn, optimizer, writer=SummaryWriter()) as monitor:
            for batch in batches:
                loss = loss_fn(model, batch)
                optimizer.zero_grad(); loss.backward(); optimizer.step()
                monitor.step(batch, loss)

    Neither ``step`` waits for the analysis nor does an error in it reach the loop.

    Where ``fully_shard`` or ``FullyShardedDataParallel`` has shared out the parameters, every rank has a monitor and
    calls ``step`` at every step: each watches its blocks of the model, curvature is not measured, rank zero writes.
    See :class:`~shockwatch.engine.sharded.ShardedEngine`.

    Args:
        model: the module in training; the outermost wrapper of FSDP1.
        loss_fn: ``loss_fn(model, batch) -> scalar``; runs on private copies only.
        optimizer: its learning rate is the clock of training.
        every_n_steps: steps between snapshots, at least; the first step is always one.
        budget: share of the training time the analysis may take, in (0, 1]; spaces the probes, the first included, and
            the snapshots where they alone would take more than half of it; no snapshot where it is 1 or ``probe`` a
            number. Ten seconds of it may be spent at once.
        horizon: steps ahead a transition counts as near.
        probe: ``"auto"``, ``"off"`` or every how many snapshots the curvature is measured.
        alerts: ``"default"``, alert rules, or the path of a YAML file of rules.
        seed: of the analysis' own random numbers.
        shutdown_timeout: seconds that ``close`` waits for the analysis at most; what is not done by then is
            given up, and a warning states how many snapshots.
        writer: a ``SummaryWriter`` (or alike) that gets scalars and texts; None writes nothing. Alerts also go
            to ``shockwatch/alerts.jsonl`` in its ``log_dir``, if it has one.
        first_step: number of the first step, for a loop that goes on from a checkpoint without our state.
        symmetries: groups stated by hand, for kernels the analysis cannot read; see ``shockwatch.symmetry.Declared``.
        on_alert: called with every alert, in the thread of the loop; an exception of its own is only reported.
        false_alarms: change points (``phase/changepoint``) in 10,000 steps of stationary noise.
        memory: ``"full"`` keeps points of the path, ``"sketch"`` sketches of it, at most 5 % of the parameters'
            size; ``"auto"`` sketches where free memory is short.

    Attributes:
        values: latest value of every tag.
        alerts: all alerts so far.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        optimizer: Optimizer,
        every_n_steps: int = 50,
        budget: float = 0.02,
        horizon: int = 200,
        probe: Probe = "auto",
        alerts: Alerts = "default",
        seed: int = 0,
        writer: Any | None = None,
        first_step: int = 1,
        symmetries: Sequence[Declared] = (),
        shutdown_timeout: float = 300.0,
        on_alert: Sink | None = None,
        false_alarms: float = 1.0,
        memory: Memory = "auto",
    ) -> None:
        self._settings = session.Settings(
            every_n_steps, budget, horizon, probe, seed, symmetries, shutdown_timeout, false_alarms, memory
        )
        if not isinstance(model, nn.Module):
            raise ValueError(f"model={type(model).__name__}: must be a torch.nn.Module")
        if not callable(loss_fn):
            raise ValueError(f"loss_fn={loss_fn!r}: must be callable as loss_fn(model, batch)")
        if not isinstance(optimizer, Optimizer):
            raise ValueError(f"optimizer={type(optimizer).__name__}: must be a torch.optim.Optimizer")
        self._writer = as_writer(writer)
        if writer is not None and self._writer is None:
            raise ValueError(
                f"writer={type(writer).__name__}: must have add_scalar, add_text and add_custom_scalars"
            )
        self._manager = AlertManager(alerts)
        self._outlets = Sinks()
        self._sinks: dict[str, Sink] = {"logging": to_logging}
        if isinstance(folder := getattr(writer, "log_dir", None), str):
            self._sinks["JSON lines"] = JsonLines(folder)
        if on_alert is not None:
            if not callable(on_alert):
                raise ValueError(f"on_alert={on_alert!r}: must be callable as on_alert(alert), or None")
            self._sinks["on_alert"] = on_alert
        self._model = model
        self._loss_fn = loss_fn
        self._clock = TrainingClock()
        self._clock.listen([optimizer])
        self._session: session.Session | None = None
        self._ranks: Ranks | None = None
        self._step = require_positive_int("first_step", first_step) - 1
        self._loss: Tensor | float | None = None
        self._resumed: dict[str, Any] | None = None
        self._closed = self._finished = False
        self.values: dict[str, float] = {session.PROXIMITY: 0.0}
        self.alerts: list[Alert] = []

    def step(self, batch: Any, loss: Tensor | float | None = None) -> None:
        """Count one optimiser step, take a snapshot if one is due, and publish what became ready.

        Args:
            batch: the batch of this step; the first one is copied and used for the probes.
            loss: the loss of this step.

        Raises:
            RuntimeError: after ``close``.
        """
        if self._closed:
            raise RuntimeError("the monitor is closed; make a new one to watch another run")
        self._step += 1
        self._loss = loss
        due = self._step % self._settings.every_n_steps == 0
        if self._session is None:
            self._session = self._open(batch)
            # a run that goes on from a checkpoint has its first snapshot
            due = due or self._resumed is None
        if due:
            self._take(loss)
        self._publish()

    def close(self, timeout: float | None = None) -> None:
        """Take a last snapshot, wait for the analysis, and publish the rest.

        Should the program end without it, it is done then.

        Args:
            timeout: seconds to wait at most; ``shutdown_timeout`` if None.
        """
        if self._finished:
            return
        self._closed = True
        self._clock.stop()
        if self._session is not None:
            if self._session.last_step != self._step:
                self._take(self._loss, last=True)
            self._session.close(timeout)
            self._publish()
        # not before: a close that was interrupted may be called again
        self._finished = True
        _open.discard(self)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: plain types and tensors.

        Waits up to ten seconds for the snapshots in work; the wait counts as overhead.
        """
        if self._session is not None and not self._closed:
            self._session.settle(session.CHECKPOINT_TIMEOUT)
            self._publish()
        return {
            "step": self._step,
            "clock": self._clock.state_dict(),
            "alerts": self._manager.state_dict(),
            "raised": [dataclasses.asdict(alert) for alert in self.alerts],
            "analysis": self._session.state if self._session is not None else self._resumed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a run; call before the first ``step``.

        Raises:
            RuntimeError: after the first ``step``.
        """
        if self._session is not None:
            raise RuntimeError("load_state_dict must come before the first step")
        self._step = int(state["step"])
        self._clock.load_state_dict(state["clock"])
        self._manager.load_state_dict(state["alerts"])
        self.alerts = [Alert(**alert) for alert in state.get("raised", [])]
        self._resumed = state["analysis"]

    def __enter__(self) -> ShockMonitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        limit = self._settings.shutdown_timeout
        self.close(limit if error is None else min(limit, session.ERROR_TIMEOUT))

    def _open(self, batch: Any) -> session.Session:
        _open.add(self)
        joined = _joined(self._model)
        self._ranks = joined if not isinstance(joined, Exception) else None
        if self._ranks is not None and not self._ranks.first:
            self._writer, self._sinks = None, {}
        self._write(write_layout)
        settings = self._settings

        def build() -> Analysis:
            if isinstance(joined, Exception):
                raise joined
            data = private_batch(batch)
            if self._ranks is not None:
                self._ranks.find(self._model)
                return self._ranks.analysis(
                    lambda layout: (unsharded_copy(self._model, layout), self._loss_fn), data, settings
                )
            return session.build_engine(
                private_copy(self._model), self._loss_fn, data, settings, settings.probe != "off"
            )

        return session.Session(settings, self._manager, self._model, build, self._resumed, self._ranks)

    def _take(self, loss: Tensor | float | None, last: bool = False) -> None:
        if self._session is not None:
            self._session.take(self._step, self._step, self._clock, loss, last)

    def _publish(self) -> None:
        if self._session is None:
            return
        start = time.perf_counter()
        updates = self._session.collect(self._step)
        for update in updates:
            self.values.update(update.values)
            self.alerts.extend(update.alerts)
            self._outlets.send(update.alerts, self._sinks)
            self._write(partial(_write_update, update))
        if updates:
            self._session.charge(time.perf_counter() - start)

    def _write(self, write: Callable[[Writer], None]) -> None:
        if self._writer is None:
            return
        try:
            write(self._writer)
        except Exception as error:
            self._writer = None
            session.warn(
                f"shockwatch: the writer failed and gets nothing more ({type(error).__name__}: {error})"
            )


def _joined(model: nn.Module) -> Ranks | Exception | None:
    """This rank's part, where the parameters are shared out, or why there is none: a collective."""
    if not is_sharded(model):
        return None
    # late: it brings the whole analysis
    from shockwatch.ranks import Ranks

    try:
        return Ranks()
    except Exception as error:
        return error


_open: weakref.WeakSet[ShockMonitor] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for monitor in list(_open):
        monitor.close(session.ERROR_TIMEOUT)


if hasattr(os, "register_at_fork"):
    # the run belongs to the parent
    os.register_at_fork(after_in_child=_open.clear)


def _write_update(update: session.Update, writer: Writer) -> None:
    write_scalars(writer, update.values, update.axis)
    write_texts(writer, update.alerts, update.notes, update.axis)
    write_pictures(writer, update.pictures, update.axis)
