from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from shockwatch.budget import ProbeSchedule, Spending
from shockwatch.capture import Capture, named_state
from shockwatch.snapshot import Observation, Snapshot
from shockwatch.worker import Result, Worker
from tests.engine.shockwatch_fakes import FakeAnalysis


def drain(worker: Worker) -> list[Result]:
    return list(iter(worker.next_result, None))


class Bench:
    """A worker, its capture, and a model whose weights equal the step."""

    def __init__(
        self, analysis: FakeAnalysis, mode: object = 1, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.model = nn.Linear(2, 1, bias=False)
        self.analysis = analysis
        self.capture = Capture(lambda: named_state(self.model))
        schedule = ProbeSchedule(mode, 0.02)  # type: ignore[arg-type]
        self.worker = Worker(analysis, schedule, self.capture.release, clock)

    def take(self, step: int) -> None:
        with torch.no_grad():
            self.model.weight.fill_(float(step))
        slot = self.capture.acquire() or self.worker.drop_oldest() or self.capture.acquire()
        assert slot is not None
        self.capture.fill(slot, float(step))
        self.worker.submit(Snapshot(step, slot.state, 0.0, 0.1, 0.1, None), slot)


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        if bench.analysis.gate is not None:
            bench.analysis.gate.set()
        bench.worker.close(30)


def test_all_accepted_are_processed_in_order(benches: list[Bench]) -> None:
    bench = Bench(FakeAnalysis(seconds=0.01))
    benches.append(bench)
    for step in range(3):
        bench.take(step)
    assert bench.worker.close(30) == 0
    results = drain(bench.worker)
    assert [r.observation.step for r in results] == [0, 1, 2]
    assert [r.observation.values["raw/norm"] for r in results] == pytest.approx(
        [s * 2**0.5 for s in range(3)]
    )
    assert [s.loss for s in bench.analysis.snapshots] == [0.0, 1.0, 2.0]
    assert all(r.snapshot.state == {} for r in results)
    assert drain(bench.worker) == []


def test_full_queue_drops_the_oldest_and_never_waits(benches: list[Bench]) -> None:
    analysis = FakeAnalysis()
    analysis.gate = threading.Event()
    bench = Bench(analysis)
    benches.append(bench)
    bench.take(0)
    assert analysis.entered.wait(10)
    start = time.perf_counter()
    for step in range(1, 50):
        bench.take(step)
    assert time.perf_counter() - start < 1.0
    assert bench.worker.dropped == 47
    analysis.gate.set()
    assert bench.worker.close(30) == 0
    assert analysis.steps == [0, 48, 49]
    # what was analysed is what was copied, not a mixture of slots
    assert analysis.norms == pytest.approx({0: 0.0, 48: 48 * 2**0.5, 49: 49 * 2**0.5})
    assert drain(bench.worker)[-1].cost.dropped == 47


def test_error_is_data_and_the_next_snapshot_is_processed(benches: list[Bench]) -> None:
    bench = Bench(FakeAnalysis(fail_at={1}))
    benches.append(bench)
    for step in range(3):
        bench.take(step)
    bench.worker.close(30)
    results = drain(bench.worker)
    assert [type(r.error) for r in results] == [type(None), ZeroDivisionError, type(None)]
    assert results[1].observation.values == {}
    assert [r.cost.errors for r in results] == [0, 1, 1]
    assert all(bench.capture.acquire() for _ in range(3)), "a failing snapshot must hand its slot back"


def test_close_with_timeout_states_what_is_lost(benches: list[Bench]) -> None:
    analysis = FakeAnalysis()
    analysis.gate = threading.Event()
    bench = Bench(analysis)
    benches.append(bench)
    for step in range(3):
        bench.take(step)
    assert analysis.entered.wait(10)
    assert bench.worker.close(0.05) == 3
    analysis.gate.set()
    assert bench.worker.close(30) == 0
    assert drain(bench.worker) == []
    with pytest.raises(RuntimeError, match="closed"):
        bench.take(4)


def test_threads_and_random_state_of_the_main_thread_are_untouched(benches: list[Bench]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        bench = Bench(FakeAnalysis())
        benches.append(bench)
        rng = torch.get_rng_state()
        bench.take(0)
        bench.worker.close(30)
        assert bench.analysis.threads == {"shockwatch"}
        if sys.platform == "linux":
            assert bench.analysis.openmp == {1}
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), rng)
    finally:
        torch.set_num_threads(before)


def test_every_result_brings_the_state_after_it(benches: list[Bench]) -> None:
    bench = Bench(FakeAnalysis(fail_at={1}))
    benches.append(bench)
    for step in range(3):
        bench.take(step)
    bench.worker.close(30)
    states = [result.state for result in drain(bench.worker)]
    assert [None if state is None else state["count"] for state in states] == [1, None, 2]


def test_settle_waits_for_what_is_in_work(benches: list[Bench]) -> None:
    analysis = FakeAnalysis()
    analysis.gate = threading.Event()
    bench = Bench(analysis)
    benches.append(bench)
    assert bench.worker.settle(0.0)
    bench.take(0)
    bench.take(1)
    assert not bench.worker.settle(0.05)
    analysis.gate.set()
    assert bench.worker.settle(30)
    assert analysis.steps == [0, 1]


def test_the_first_snapshot_is_never_dropped(benches: list[Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    run = Worker._run
    monkeypatch.setattr(Worker, "_run", lambda worker: (free.wait(30), run(worker)))
    bench = Bench(FakeAnalysis())
    benches.append(bench)
    # a busy machine: the thread has not begun yet
    for step in range(10):
        bench.take(step)
    free.set()
    assert bench.worker.close(30) == 0
    assert bench.analysis.steps == [0, 8, 9]
    assert drain(bench.worker)[-1].cost.dropped == 7


def test_overhead_is_all_that_was_spent(benches: list[Bench]) -> None:
    bench = Bench(FakeAnalysis(seconds=0.05))
    benches.append(bench)
    bench.worker.charge(0.1)
    for step in range(3):
        bench.take(step)
    bench.worker.close(30)
    cost = drain(bench.worker)[-1].cost
    assert cost.worker_seconds == pytest.approx(0.15, abs=0.08)
    # the elapsed time is that of the worker, and the charge comes on top
    assert 1.2 < cost.overhead < 1.7


def test_thousand_snapshots_under_load(benches: list[Bench]) -> None:
    bench = Bench(FakeAnalysis(), mode=10)
    benches.append(bench)
    for step in range(1000):
        bench.take(step)
    bench.worker.close(60)
    steps = [r.observation.step for r in drain(bench.worker)]
    assert steps == sorted(set(steps))
    assert len(steps) + bench.worker.dropped == 1000
    assert bench.analysis.norms == pytest.approx({s: s * 2**0.5 for s in steps})


def test_a_forgotten_worker_does_not_hang_the_interpreter() -> None:
    code = (
        "import sys; sys.path[:0] = ['tests/engine'];"
        "from shockwatch_fakes import FakeAnalysis; from shockwatch.budget import ProbeSchedule;"
        "from shockwatch.worker import Result, Worker; Worker(FakeAnalysis(), ProbeSchedule(1, 0.1), print)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class Clocked(FakeAnalysis):
    """Takes seconds of a clock of its own: ten to prepare, three for a probe, one for another snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def prepare(self, snapshot: Snapshot) -> None:
        super().prepare(snapshot)
        self.now += 10.0

    def process(self, snapshot: Snapshot, probe: bool) -> Observation:
        self.now += 3.0 if probe else 1.0
        return super().process(snapshot, probe)


def test_preparation_comes_once_and_is_no_part_of_what_a_probe_or_a_snapshot_costs(
    benches: list[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    due = ProbeSchedule.due

    def listening(self: ProbeSchedule, index: int, spending: Spending) -> bool:
        asked.append(spending.seconds)
        return due(self, index, spending)

    monkeypatch.setattr(ProbeSchedule, "due", listening)
    analysis = Clocked()
    bench = Bench(analysis, mode=2, clock=lambda: analysis.now)
    benches.append(bench)
    for step in range(4):
        bench.take(step)
        assert bench.worker.settle(30)
    assert analysis.prepared == 0
    # the first has no known cost; then three for a probe, on top of all that was spent
    assert asked == [10.0, 16.0, 17.0, 20.0]
    # plain snapshots: one, one, and one in a probe; the next would be the fourth
    assert bench.worker.spending().seconds == 4.0
    assert [r.cost.worker_seconds for r in drain(bench.worker)] == [13.0, 14.0, 17.0, 18.0]


def test_the_first_probe_waits_for_the_budget_and_says_so_once(benches: list[Bench]) -> None:
    analysis = Clocked()
    analysis.probe_seconds = 4.0
    bench = Bench(analysis, mode="auto", clock=lambda: analysis.now)
    benches.append(bench)
    for step in range(3):
        bench.take(step)
        assert bench.worker.settle(30)
    assert analysis.probes == []
    notes = [r.observation.notes for r in drain(bench.worker)]
    # ten to prepare and four expected, at two per cent
    assert notes[1:] == [(), ()]
    assert notes[0] == (
        "curvature: a probe is expected to take 4.0 s, so the budget pays for the first one about 700 s into the "
        "run. A larger budget= brings it sooner, probe=1 at once.",
    )
    analysis.probe_seconds = -20.0  # as if the run had gone on for long
    bench.take(3)
    assert bench.worker.settle(30)
    assert analysis.probes == [3]


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread has a niceness of its own")
def test_the_thread_gives_way_to_the_others(benches: list[Bench]) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    analysis = FakeAnalysis()
    seen: list[int] = []
    process = analysis.process
    analysis.process = lambda *a: (seen.append(os.getpriority(os.PRIO_PROCESS, 0)), process(*a))[1]  # type: ignore[method-assign]
    bench = Bench(analysis)
    benches.append(bench)
    bench.take(0)
    assert bench.worker.settle(30)
    assert seen == [min(before + 5, 19)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
