"""One background thread that analyses snapshots, and never makes the trainer wait."""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shockwatch.budget import ProbeSchedule, Spending
from shockwatch.capture import Slot
from shockwatch.openmp import use_one_thread
from shockwatch.priority import give_way, stand_equal
from shockwatch.snapshot import Observation, Snapshot

_IDLE_SECONDS = 0.5
_EXIT_SECONDS = 30.0
_LATER = 1.25  # a snapshot waits for its turn, and the budget grows meanwhile


ONE_AT_A_TIME = threading.RLock()
"""Held while an analysis is built: tracing patches torch, and random states are put back, for the whole process."""


class Analysis(Protocol):
    """What the worker runs; all calls come from the worker thread.

    ``snapshot.state`` belongs to the caller and is overwritten after ``process`` returns: what an analysis
    keeps, it must copy.
    """

    @property
    def sketched(self) -> bool:
        """Whether copies of the parameters are to be gone once a snapshot is analysed."""

    @property
    def reads_moments(self) -> bool:
        """Whether a probe wants the optimiser's state, and one may come at all."""

    @property
    def probe_seconds(self) -> float:
        """What a probe is expected to take; asked after ``prepare``, until one has been timed."""
        ...

    def prepare(self, snapshot: Snapshot) -> None:
        """What is done once, before the first snapshot is processed; plain snapshots are not spaced for it."""
        ...

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
        overhead: seconds of set-up, capture and worker over elapsed seconds.
    """

    dropped: int
    errors: int
    worker_seconds: float
    overhead: float


@dataclass(frozen=True)
class Result:
    """One analysed snapshot, without its tensors.

    Attributes:
        error: why ``observation`` is empty, or holds less than it should.
        state: the analysis' state after this snapshot; None if it could not be had.
    """

    snapshot: Snapshot
    observation: Observation
    probe: bool
    cost: Cost
    error: BaseException | None = None
    state: dict[str, Any] | None = None


@dataclass
class _Job:
    index: int
    snapshot: Snapshot
    slot: Slot


class Worker:
    """Runs an analysis on its own thread, first in, first out.

    The queue is bounded by the number of slots that exist. Whatever the analysis raises (``SystemExit``
    included) is the result of that snapshot, and the thread goes on. It is a daemon, so that an analysis
    that hangs cannot keep the interpreter from ending; at exit it gets half a minute to finish what it has,
    for a thread that is cut off inside a computation may take the process with it.

    The main thread may be interrupted (``KeyboardInterrupt``) between any two of its instructions. So it takes
    the bare lock, which a ``with`` statement always gives back, never waits on a condition or an event (their
    locks are taken in Python, and an interrupt there leaves them taken), and never trusts ``Thread.join``,
    which declares a thread dead when it is interrupted.

    Args:
        analysis: what to run.
        schedule: decides which snapshots are probes.
        release: takes a slot back after its snapshot was analysed.
        clock: seconds the thread has worked. ``time.thread_time`` leaves out what it waits for a core that training
            has; it also leaves out what a device computes for it.
    """

    def __init__(
        self,
        analysis: Analysis,
        schedule: ProbeSchedule,
        release: Callable[[Slot], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._analysis = analysis
        self._schedule = schedule
        self._release = release
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._queue: deque[_Job] = deque()
        self._current: _Job | None = None
        self._results: deque[Result] = deque()
        self._closing = False
        self._abandoned = False
        self._ended = False
        self._bell = threading.Lock()
        self._bell.acquire()
        self._submitted = 0
        self._dropped = 0
        self._errors = 0
        self._total_seconds = 0.0
        self._spent_seconds = 0.0
        self._plain_seconds = 0.0
        self._last_plain = self._expected = 0.0
        self._last_probe: float | None = None
        self._said_waiting = False
        self._proximity = 0.0
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="shockwatch", daemon=True)
        self._thread.start()
        _running.add(self)

    @property
    def dropped(self) -> int:
        """Snapshots lost so far."""
        with self._lock:
            return self._dropped

    def submit(self, snapshot: Snapshot, slot: Slot) -> None:
        """Queue a snapshot whose tensors live in ``slot``; never waits.

        Raises:
            RuntimeError: after ``close``.
        """
        with self._lock:
            if self._closing:
                raise RuntimeError("the worker is closed and takes no more snapshots")
            self._queue.append(_Job(self._submitted, snapshot, slot))
            self._submitted += 1
            self._arrived.notify_all()

    def drop_oldest(self) -> Slot | None:
        """Give up the oldest snapshot that still waits, count it, and return its slot; None if none waits.

        The very first snapshot stays: the path is measured from it. Old ones go before new ones, for a
        forecast is worth most while it is fresh.
        """
        with self._lock:
            for place, job in enumerate(self._queue):
                if job.index > 0:
                    del self._queue[place]
                    self._dropped += 1
                    return job.slot
        return None

    def refuse(self) -> None:
        """Count a snapshot that could not even be queued."""
        with self._lock:
            self._dropped += 1

    def charge(self, seconds: float, waited: bool = False) -> None:
        """Add main-thread seconds to the cost: a capture, writing the results, or what was ``waited`` or set up."""
        with self._lock:
            self._spent_seconds += seconds
            if not waited:
                self._plain_seconds += seconds

    def spending(self) -> Spending:
        """What plain snapshots have cost so far, those that wait included, and one more."""
        with self._lock:
            waiting = len(self._queue) + (self._current is not None)
            seconds = self._plain_seconds + self._last_plain * (waiting + 1)
            return Spending(seconds, time.perf_counter() - self._started, self._proximity)

    def may_probe(self) -> bool:
        """Whether the next snapshot may become a probe that reads the optimiser's state."""
        with self._lock:
            elapsed = _LATER * (time.perf_counter() - self._started)
            spending = Spending(self._spent_seconds + self._expected, elapsed, self._proximity)
            return self._analysis.reads_moments and self._schedule.possible(self._submitted, spending)

    def next_result(self) -> Result | None:
        """The oldest result not yet taken, or None; never waits, and takes no lock: it is asked for at every step."""
        try:
            return self._results.popleft()
        except IndexError:
            return None

    def settle(self, timeout: float) -> bool:
        """Wait until nothing is queued or in work, at most ``timeout`` seconds; tell whether that is so."""
        deadline = time.perf_counter() + timeout
        while True:
            with self._lock:
                if self._ended or not (self._queue or self._current):
                    return True
            if time.perf_counter() >= deadline:
                return False
            time.sleep(0.001)

    def forget(self) -> None:
        """End once the queue is empty, though nobody asks for the results; takes no lock (garbage collection
        may call it anywhere)."""
        self._closing = True

    def close(self, timeout: float | None = None) -> int:
        """Process everything that was accepted, then end the thread.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Returns:
            The snapshots that were given up because the time ran out (0 normally).
        """
        deadline = math.inf if timeout is None else time.perf_counter() + timeout
        with self._lock:
            self._closing = True
            self._arrived.notify_all()
        if (thread := self._thread.native_id) is not None and not self._ended:
            # training is over: nobody to give way to
            stand_equal(thread)
        # the flag is the truth, the bell only wakes
        while not self._ended and (left := deadline - time.perf_counter()) > 0.0:
            self._bell.acquire(timeout=min(left, _IDLE_SECONDS))
        with self._lock:
            lost = 0 if self._abandoned else len(self._queue) + (self._current is not None)
            self._abandoned = self._abandoned or not self._ended
            self._queue.clear()
            self._dropped += lost
        if self._ended:
            self._thread.join(_IDLE_SECONDS)
        return lost

    def _run(self) -> None:
        told = False
        try:
            while not self._ended:
                try:
                    if not told:
                        told = True
                        use_one_thread()
                        give_way()
                    while (job := self._next()) is not None:
                        self._process(job)
                except BaseException as error:
                    # raised into the thread from outside, or between two snapshots
                    self._give_up_current(error)
        finally:
            self._ended = True
            self._bell.release()

    def _next(self) -> _Job | None:
        with self._lock:
            while not self._queue:
                if self._closing:
                    self._ended = True
                    return None
                self._arrived.wait(_IDLE_SECONDS)
            self._current = self._queue.popleft()
            return self._current

    def _process(self, job: _Job) -> None:
        start = self._clock()
        began = start
        probe, state = False, None
        error: BaseException | None = None
        observation = Observation(job.snapshot.step, {})
        try:
            job.slot.wait()
            loss = float(job.slot.loss) if job.slot.loss_known else None
            snapshot = replace(job.snapshot, loss=loss)
            if job.index == 0:
                self._analysis.prepare(snapshot)
                began = self._clock()
            with self._lock:
                self._expected = self._last_probe or self._analysis.probe_seconds
                seconds = self._spent_seconds + (self._clock() - start) + self._expected
                spending = Spending(seconds, time.perf_counter() - self._started, self._proximity)
            probe = self._schedule.due(job.index, spending)
            note = self._waiting(spending)
            observation = self._analysis.process(snapshot, probe)
            observation = replace(observation, notes=(*observation.notes, *note))
            error = observation.error
            state = self._analysis.state_dict()
            proximity = observation.values.get("shock/proximity", math.nan)
            if math.isfinite(proximity):
                self._proximity = proximity
        except BaseException as caught:
            error = caught
        self._store(job, observation, probe, error, state, start, began)

    def _waiting(self, spending: Spending) -> tuple[str, ...]:
        """Said once: that the budget does not pay for a first probe yet."""
        at = self._schedule.first_at(spending)
        if at is None or self._said_waiting:
            return ()
        self._said_waiting = True
        return (
            f"curvature: a probe is expected to take {self._expected:.1f} s, so the budget pays for the first one "
            f"about {at:.0f} s into the run. A larger budget= brings it sooner, probe=1 at once.",
        )

    def _store(
        self,
        job: _Job,
        observation: Observation,
        probe: bool,
        error: BaseException | None,
        state: dict[str, Any] | None,
        start: float,
        began: float,
    ) -> None:
        self._release(job.slot)
        with self._lock:
            now = self._clock()
            self._total_seconds += now - start
            if probe:
                self._last_probe = self._expected = now - began
            else:
                self._last_plain = now - began
            self._spent_seconds += now - start
            self._plain_seconds += min(self._last_plain, now - began) if probe else now - began
            self._errors += error is not None
            self._current = None
            elapsed = max(time.perf_counter() - self._started, 1e-9)
            cost = Cost(self._dropped, self._errors, self._total_seconds, self._spent_seconds / elapsed)
            if not self._abandoned:
                snapshot = replace(job.snapshot, state={}, moments=None)
                self._results.append(Result(snapshot, observation, probe, cost, _bare(error), state))

    def _give_up_current(self, error: BaseException) -> None:
        with self._lock:
            job = self._current
        if job is not None:
            now = self._clock()
            self._store(job, Observation(job.snapshot.step, {}), False, error, None, now, now)


def _bare(error: BaseException | None) -> BaseException | None:
    """``error`` without tracebacks: their frames would keep the slot's tensors alive."""
    if error is not None:
        error = error.with_traceback(None)
        error.__context__ = error.__cause__ = None
    return error


_running: weakref.WeakSet[Worker] = weakref.WeakSet()


def _end_all() -> None:
    for worker in list(_running):
        worker.close(_EXIT_SECONDS)


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    # a child has the locks as they were, but not the threads that would free them
    os.register_at_fork(after_in_child=_running.clear)
