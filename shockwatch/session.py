"""One watched run: snapshots in, scalars and alerts out. Knows neither Lightning nor TensorBoard."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from shockwatch.alerts import Alert, AlertManager
from shockwatch.budget import Probe, ProbeSchedule, SnapshotSchedule, require_probe
from shockwatch.capture import Capture, named_state
from shockwatch.clock import TrainingClock
from shockwatch.errors import ShockwatchWarning as ShockwatchWarning
from shockwatch.errors import require_float, require_positive_int
from shockwatch.errors import warn as warn
from shockwatch.memory import Memory, require_memory, sketches
from shockwatch.replica import preserved_randomness
from shockwatch.snapshot import Picture, Snapshot
from shockwatch.symmetry import Declared
from shockwatch.worker import ONE_AT_A_TIME, Analysis, Result, Worker

if TYPE_CHECKING:
    from shockwatch.ranks import Ranks

_log = logging.getLogger("shockwatch")

PROXIMITY = "shock/proximity"

ERROR_TIMEOUT = 30.0
"""Seconds the end of a run that failed waits for the analysis at most."""

CHECKPOINT_TIMEOUT = 10.0
"""Seconds a checkpoint waits for the snapshots in work at most."""

LossFunction = Callable[[nn.Module, Any], Tensor]
"""``loss_fn(model, batch) -> scalar``."""


@dataclass(frozen=True)
class Settings:
    """The options that ``ShockWatch`` and ``ShockMonitor`` share.

    Raises:
        ValueError: naming the argument, its value and what it may be.
    """

    every_n_steps: int = 50
    budget: float = 0.02
    horizon: int = 200
    probe: Probe = "auto"
    seed: int = 0
    symmetries: Sequence[Declared] = ()
    shutdown_timeout: float = 300.0
    false_alarms: float = 1.0
    memory: Memory = "auto"

    def __post_init__(self) -> None:
        require_positive_int("every_n_steps", self.every_n_steps)
        require_float("budget", self.budget, 0.0, 1.0, open_low=True)
        require_positive_int("horizon", self.horizon)
        require_probe("probe", self.probe)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed={self.seed!r}: must be an integer >= 0")
        listed = isinstance(self.symmetries, (list, tuple))
        if not listed or not all(isinstance(declared, Declared) for declared in self.symmetries):
            raise ValueError(
                f"symmetries={self.symmetries!r}: must be a list of shockwatch.symmetry.Declared"
            )
        object.__setattr__(self, "symmetries", tuple(self.symmetries))
        require_float("shutdown_timeout", self.shutdown_timeout, 0.0)
        require_float("false_alarms", self.false_alarms, 0.0, open_low=True)
        require_memory("memory", self.memory)

    @property
    def mean_run_length(self) -> float:
        """Observations of stationary noise per false change point; no detector is quicker than 50."""
        return min(max(10_000 / (self.false_alarms * self.every_n_steps), 50.0), 1e6)


@dataclass(frozen=True)
class Update:
    """What one analysed snapshot has to say.

    Attributes:
        step: optimiser step at which the snapshot was taken.
        axis: the logger's x at that moment.
        values: scalars by tag.
        notes: text for the log.
        alerts: raised by these values.
        learning_rate: largest learning rate of the step before the snapshot.
        gradient_descent: whether the learning rate alone sets the clock (SGD).
        pictures: of an event.
        time_per_step: effective learning rate of the step before the snapshot; NaN where ``lr`` sets no clock.
    """

    step: int
    axis: int
    values: dict[str, float]
    notes: tuple[str, ...]
    alerts: tuple[Alert, ...]
    learning_rate: float
    gradient_descent: bool
    pictures: tuple[Picture, ...] = ()
    time_per_step: float = math.nan


def build_engine(
    model: nn.Module, loss_fn: LossFunction | None, batch: Any, settings: Settings, probe: bool
) -> Analysis:
    """The real analysis (traces the model's step; main thread only); no ``loss_fn``: raw parameters only."""
    from shockwatch.engine import Engine, SketchedEngine

    kind = SketchedEngine if sketches(settings.memory, model) else Engine
    engine: Analysis = kind.build(
        model,
        loss_fn,
        batch,
        horizon=settings.horizon,
        seed=settings.seed,
        probe=probe,
        declared=settings.symmetries,
        mean_run_length=settings.mean_run_length,
    )
    return engine


class Session:
    """Captures, analyses in the background and collects; an error of its own never reaches the caller.

    Lives from the first training batch to ``close``. Every method is for the main thread and none of them
    waits, except ``settle`` and ``close``.

    Args:
        settings: validated options.
        manager: turns values into alerts.
        live: the module in training; only its tensors are read.
        build: makes the analysis; called at once, its draws from global generators are undone.
        resumed: the analysis' state from a checkpoint; if it does not fit, the analysis starts afresh.
        ranks: where the parameters are shared out. Every rank then has a session, calls ``take`` at the same steps, and
            takes what all can take; curvature is never measured.
    """

    def __init__(
        self,
        settings: Settings,
        manager: AlertManager,
        live: nn.Module,
        build: Callable[[], Analysis],
        resumed: dict[str, Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if ranks is not None:
            settings = replace(settings, probe="off")
        self._ranks = ranks
        self._settings = settings
        self._manager = manager
        self._axes: dict[int, int] = {}
        self._extra: deque[Update] = deque()
        self._state = resumed
        self._reported = False
        self._closed = False
        self._errors = 0
        self._capture: Capture | None = None
        self._worker: Worker | None = None
        self._last_step: int | None = None
        self._snapshots = SnapshotSchedule(settings.probe, settings.budget)
        self._spaced = False
        self._news: tuple[str, ...] = ()
        try:
            start = time.perf_counter()
            with ONE_AT_A_TIME, preserved_randomness():
                analysis = self._resume(build, resumed)
            tensors = (lambda: named_state(live)) if ranks is None else ranks.tensors
            self._capture = Capture(tensors, keep=not analysis.sketched)
            probes = ProbeSchedule(settings.probe, settings.budget)
            # what waits for a core costs training nothing; what waits for a device does
            seconds = time.thread_time if self._capture.on_cpu else time.perf_counter
            self._worker = Worker(analysis, probes, self._capture.release, seconds)
            self._worker.charge(time.perf_counter() - start, waited=True)
            weakref.finalize(self, self._worker.forget).atexit = False
        except Exception as error:
            self._fail("could not be set up", error)

    @property
    def active(self) -> bool:
        """Whether further snapshots are taken."""
        return self._capture is not None and self._worker is not None

    @property
    def last_step(self) -> int | None:
        """Step of the last snapshot taken."""
        return self._last_step

    @property
    def state(self) -> dict[str, Any] | None:
        """The analysis' state for a checkpoint, after the last snapshot that was collected: what the alerts
        have seen, the analysis has seen, and nothing more."""
        return self._state

    def take(
        self, step: int, axis: int, clock: TrainingClock, loss: Tensor | float | None, last: bool = False
    ) -> None:
        """Copy the parameters as they are now and queue them; the oldest that waits gives way if need be.

        Nothing happens where plain snapshots would take more than the budget; the ``last`` of a run is always taken.
        """
        if self._capture is None or self._worker is None or (self._ranks is not None and self._ranks.lost):
            self._together(step, None, last)
            return
        if not last and not self._snapshots.due(self._worker.spending()):
            self._together(step, False, last)
            self._say_spaced()
            return
        start = time.perf_counter()
        slot = None
        try:
            if last and self._ranks is not None:
                self._worker.settle(self._settings.shutdown_timeout)
            slot = self._capture.acquire()
            if slot is None and self._ranks is None:
                slot = self._worker.drop_oldest() or self._capture.acquire()
            if not self._together(step, slot is not None, last) or slot is None:
                if slot is not None and self._capture is not None:
                    self._capture.release(slot)
                self._worker.refuse()
                return
            self._capture.fill(slot, loss, clock.optimizers if self._worker.may_probe() else ())
            snapshot = Snapshot(step, slot.state, loss=None, moments=slot.moments, **clock.reading)
            self._worker.submit(snapshot, slot)
        except Exception as error:
            self._capture = None
            if self._ranks is not None:
                self._ranks.leave()
            self._fail("stops taking snapshots", error, step, axis)
            return
        self._axes[step] = axis
        self._last_step = step
        self._worker.charge(time.perf_counter() - start)

    def _together(self, step: int, ready: bool | None, last: bool) -> bool:
        """Whether every rank takes the snapshot of ``step``; one that has failed (None) ends it for all."""
        if self._ranks is None:
            return bool(ready)
        agreed = self._ranks.agree(step, ready, last)
        if self._ranks.over and self._capture is not None:
            self._capture = None
            self._report("ends", RuntimeError("a rank cannot go on, so none does"))
        return agreed

    def collect(self, step: int) -> list[Update]:
        """What became ready since the last call, in step order.

        Args:
            step: current optimiser step, for the lag.
        """
        updates = []
        if self._worker is not None:
            while (result := self._worker.next_result()) is not None:
                updates.append(self._update(result, step))
        # a failure comes after the snapshots taken before it: every tag is written in step order
        while self._extra and (self._closed or not self._axes):
            updates.append(self._extra.popleft())
        return updates

    def charge(self, seconds: float) -> None:
        """Count main-thread seconds spent on the results (writing them) as overhead."""
        if self._worker is not None:
            self._worker.charge(seconds)

    def settle(self, timeout: float) -> bool:
        """Wait until all that was accepted is ready to be collected, at most ``timeout`` seconds.

        The wait counts as overhead. Returns whether all is ready.
        """
        if self._worker is None:
            return True
        start = time.perf_counter()
        settled = self._worker.settle(timeout)
        self._worker.charge(time.perf_counter() - start, waited=True)
        return settled

    def close(self, timeout: float | None = None) -> None:
        """Wait until every accepted snapshot is analysed; then ``collect``.

        Args:
            timeout: seconds to wait at most; the ``shutdown_timeout`` of the settings if None. What is not
                done by then is given up, with one warning that states how many snapshots.
        """
        self._capture = None
        self._closed = True
        if self._worker is None:
            return
        limit = self._settings.shutdown_timeout if timeout is None else timeout
        lost = self._worker.close(limit)
        if lost:
            if self._ranks is not None:
                self._ranks.leave()
            note = f"{lost} snapshots were not analysed within {limit:g} s and are lost"
            warn(f"shockwatch: {note}")
            step = self._last_step or 0
            values = {"shockwatch/dropped": float(self._worker.dropped)}
            self._extra.append(Update(step, self._axes.get(step, step), values, (note,), (), math.nan, False))

    def _resume(self, build: Callable[[], Analysis], resumed: dict[str, Any] | None) -> Analysis:
        analysis = build()
        if resumed is None:
            return analysis
        try:
            analysis.load_state_dict(resumed)
        except Exception as error:
            warn(
                f"shockwatch: the checkpoint's state of the analysis does not fit ({type(error).__name__}: "
                f"{error}); it starts afresh."
            )
            self._state = None
            return build()
        return analysis

    def _update(self, result: Result, step: int) -> Update:
        snapshot, cost = result.snapshot, result.cost
        if result.error is not None:
            self._report("failed on the snapshot of step " + str(snapshot.step), result.error)
        values = {tag: float(value) for tag, value in result.observation.values.items()}
        values["shockwatch/lag_steps"] = float(max(step - snapshot.step, 0))
        values["shockwatch/dropped"] = float(cost.dropped)
        values["shockwatch/worker_seconds"] = cost.worker_seconds
        values["shockwatch/overhead"] = cost.overhead
        values["shockwatch/errors"] = float(cost.errors)
        self._errors = cost.errors
        self._state = result.state if result.state is not None else self._state
        notes, self._news = (*result.observation.notes, *self._news), ()
        for note in notes:
            _log.info("step %d: %s", snapshot.step, note)
        axis = self._axes.pop(snapshot.step, snapshot.step)
        # older entries belong to dropped snapshots
        self._axes = {other: x for other, x in self._axes.items() if other > snapshot.step}
        return Update(
            snapshot.step,
            axis,
            values,
            notes,
            self._alerts(snapshot.step, values),
            snapshot.learning_rate,
            math.isfinite(snapshot.time_per_step),
            result.observation.pictures,
            snapshot.time_per_step,
        )

    def _say_spaced(self) -> None:
        if not self._spaced:
            self._spaced = True
            self._news = (
                f"snapshots every {self._settings.every_n_steps} steps would take more than their share of "
                f"budget={self._settings.budget:g}: they are taken less often.",
            )

    def _alerts(self, step: int, values: dict[str, float]) -> tuple[Alert, ...]:
        try:
            return tuple(self._manager.update(step, values))
        except Exception as error:
            self._report("failed in an alert rule", error)
            return ()

    def _fail(self, what: str, error: BaseException, step: int = 0, axis: int = 0) -> None:
        self._report(what, error)
        note = f"shockwatch {what}: {type(error).__name__}: {error}"
        values = {"shockwatch/errors": float(self._errors + 1)}
        self._extra.append(Update(step, axis, values, (note,), (), math.nan, False))

    def _report(self, what: str, error: BaseException) -> None:
        if self._reported:
            _log.debug("the analysis %s", what, exc_info=error)
            return
        self._reported = True
        if self._ranks is not None and not self._ranks.first:
            # rank zero warns
            _log.info("the analysis %s on this rank", what, exc_info=error)
            return
        warn(
            f"shockwatch: the analysis {what} ({type(error).__name__}: {error}). Training goes on; "
            "further errors are only counted, as shockwatch/errors."
        )
