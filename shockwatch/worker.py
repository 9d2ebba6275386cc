"""One background thread that analyses snapshots, and never makes the trainer wait."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shockwatch.budget import ProbeSchedule
from shockwatch.capture import Slot
from shockwatch.openmp import use_one_thread
from shockwatch.snapshot import Observation, Snapshot

_IDLE_SECONDS = 0.5


class Analysis(Protocol):
    """What the worker runs; all calls come from the worker thread.

    ``snapshot.state`` belongs to the caller and is overwritten after ``process`` returns: what an analysis
    keeps, it must copy.
    """

    def process(self, snapshot: Snapshot, probe: bool) -> Observation:
        """Compute the scalars of one snapshot; with ``probe`` also the expensive ones (curvature)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: plain types and tensors only, sharing nothing that changes later."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo ``state_dict``."""
        ...


@dataclass(frozen=True)
class Cost:
    """What the analysis has cost up to one result.

    Attributes:
        dropped: snapshots lost to a full queue.
        errors: snapshots whose analysis raised.
        worker_seconds: seconds the worker has computed, the first snapshot (set-up) included.
        overhead: recurring seconds of capture and worker, without the first snapshot, over elapsed seconds.
    """

    dropped: int
    errors: int
    worker_seconds: float
    overhead: float


@dataclass(frozen=True)
class Result:
    """One analysed snapshot, without its tensors; ``error`` says why ``observation`` is empty."""

    snapshot: Snapshot
    observation: Observation
    probe: bool
    cost: Cost
    error: Exception | None = None


@dataclass
class _Job:
    index: int
    snapshot: Snapshot
    slot: Slot


class Worker:
    """Runs an analysis on its own thread, first in, first out.

    The queue is bounded by the number of slots that exist. The thread is no daemon (a daemon may die in the
    middle of a computation and take the interpreter with it); it ends with ``close``, or when the main thread
    has ended.

    Args:
        analysis: what to run.
        schedule: decides which snapshots are probes.
        release: takes a slot back after its snapshot was analysed.
    """

    def __init__(self, analysis: Analysis, schedule: ProbeSchedule, release: Callable[[Slot], None]) -> None:
        self._analysis = analysis
        self._schedule = schedule
        self._release = release
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._results: deque[Result] = deque()
        self._closing = False
        self._abandoned = False
        self._submitted = 0
        self._dropped = 0
        self._errors = 0
        self._processed = 0
        self._total_seconds = 0.0
        self._recurring_seconds = 0.0
        self._proximity = 0.0
        self._state: dict[str, Any] | None = None
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="shockwatch", daemon=False)
        self._thread.start()

    @property
    def state(self) -> dict[str, Any] | None:
        """The analysis' state after the last snapshot it processed, or None; a private copy, never waits."""
        with self._changed:
            return self._state

    @property
    def dropped(self) -> int:
        """Snapshots lost so far."""
        with self._changed:
            return self._dropped

    def submit(self, snapshot: Snapshot, slot: Slot) -> None:
        """Queue a snapshot whose tensors live in ``slot``; never waits.

        Raises:
            RuntimeError: after ``close``.
        """
        with self._changed:
            if self._closing:
                raise RuntimeError("the worker is closed and takes no more snapshots")
            self._queue.append(_Job(self._submitted, snapshot, slot))
            self._submitted += 1
            self._changed.notify_all()

    def drop_oldest(self) -> Slot | None:
        """Give up the oldest snapshot that still waits, count it, and return its slot; None if none waits."""
        with self._changed:
            if not self._queue:
                return None
            self._dropped += 1
            return self._queue.popleft().slot

    def charge(self, seconds: float) -> None:
        """Add main-thread seconds (a capture, writing the results) to the recurring cost."""
        with self._changed:
            self._recurring_seconds += seconds

    def drain(self) -> list[Result]:
        """The results since the last call, in step order; never waits."""
        with self._changed:
            results = list(self._results)
            self._results.clear()
        return results

    def close(self, timeout: float | None = None) -> int:
        """Process everything that was accepted, then end the thread.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Returns:
            The snapshots that were given up because the time ran out (0 normally).
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return 0
        with self._changed:
            self._abandoned = True
            lost = len(self._queue) + 1
            self._queue.clear()
            self._dropped += lost
        return lost

    def _run(self) -> None:
        use_one_thread()
        while (job := self._next()) is not None:
            self._process(job)

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._queue:
                if self._closing or not threading.main_thread().is_alive():
                    return None
                self._changed.wait(_IDLE_SECONDS)
            return self._queue.popleft()

    def _process(self, job: _Job) -> None:
        start = time.perf_counter()
        probe, error, state = False, None, None
        observation = Observation(job.snapshot.step, {})
        try:
            job.slot.wait()
            loss = float(job.slot.loss) if job.slot.loss_known else None
            snapshot = replace(job.snapshot, loss=loss)
            with self._changed:
                spent, elapsed = self._recurring_seconds, start - self._started
            probe = self._schedule.due(job.index, spent, elapsed, self._proximity)
            observation = self._analysis.process(snapshot, probe)
            state = self._analysis.state_dict()
            proximity = observation.values.get("shock/proximity", math.nan)
            if math.isfinite(proximity):
                self._proximity = proximity
        except Exception as caught:
            # without its traceback: the frames would keep the slot's tensors alive
            error = caught.with_traceback(None)
        finally:
            self._release(job.slot)
        self._store(replace(job.snapshot, state={}), observation, probe, error, state, start)

    def _store(
        self,
        snapshot: Snapshot,
        observation: Observation,
        probe: bool,
        error: Exception | None,
        state: dict[str, Any] | None,
        start: float,
    ) -> None:
        with self._changed:
            now = time.perf_counter()
            self._total_seconds += now - start
            if self._processed:
                self._recurring_seconds += now - start
            self._processed += 1
            self._errors += error is not None
            self._state = state if state is not None else self._state
            elapsed = max(now - self._started, 1e-9)
            cost = Cost(self._dropped, self._errors, self._total_seconds, self._recurring_seconds / elapsed)
            if not self._abandoned:
                self._results.append(Result(snapshot, observation, probe, cost, error))
