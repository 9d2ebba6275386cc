"""Faults inside: in an observable, in the probe, in the worker thread."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from shockwatch import ShockMonitor, ShockWatch, session
from shockwatch.engine import Engine, look, watched_step
from shockwatch.observables import OBSERVABLES
from shockwatch.snapshot import Observation, Snapshot
from tests.engine.shockwatch_fakes import FakeAnalysis
from tests.faults.recipes import ours
from tests.faults.survival import listening, survives


def values(watch: ShockWatch) -> dict[str, float]:
    """The latest value of every tag, without costs."""
    return {t: v for t, v in watch.values.items() if not t.startswith(("shockwatch/", "phase/"))}


def agree(some: dict[str, float], all_: dict[str, float]) -> bool:
    return all(v == all_[t] or (v != v and all_[t] != all_[t]) for t, v in some.items())


@pytest.mark.parametrize("broken", OBSERVABLES, ids=lambda kind: kind.__name__)
def test_an_observable_that_raises_costs_its_own_values_only(
    broken: type[Any], monkeypatch: pytest.MonkeyPatch, roomy: None
) -> None:
    sound = ShockWatch(every_n_steps=2, probe="off")
    survives(sound)
    calls: list[int] = []
    emitted: set[str] = set()
    compute: Callable[..., dict[str, float]] = broken.compute

    def sometimes(self: Any, point: Any, previous: Any) -> dict[str, float]:
        calls.append(point.step)
        if len(calls) > 2:
            raise ArithmeticError("no such number")
        result = compute(self, point, previous)
        emitted.update(result)
        return result

    monkeypatch.setattr(broken, "compute", sometimes)
    watch = ShockWatch(every_n_steps=2, probe="off")
    heard, _ = survives(watch)
    assert len(heard) == 1
    assert "ArithmeticError: no such number" in heard[0]
    assert len(calls) == 5
    assert watch.values["shockwatch/errors"] == 3.0
    # its own values stay where they were; all others are what they are without the fault
    assert agree({t: v for t, v in values(watch).items() if t not in emitted}, values(sound))


def test_a_probe_out_of_memory_costs_its_own_values_only(
    monkeypatch: pytest.MonkeyPatch, roomy: None
) -> None:
    sound = ShockWatch(every_n_steps=2, probe="off")
    survives(sound)

    def hungry(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB")

    monkeypatch.setattr(look, "probe", hungry)
    watch = ShockWatch(every_n_steps=2, probe=1)
    heard, _ = survives(watch)
    assert len(heard) == 1
    assert "OutOfMemoryError: CUDA out of memory" in heard[0]
    assert watch.values["shockwatch/errors"] == 5.0
    assert agree(values(sound), values(watch))


def test_symmetries_that_cannot_be_inferred_cost_the_quotient_and_the_curvature(
    monkeypatch: pytest.MonkeyPatch, roomy: None
) -> None:
    def fails(*_: Any) -> Any:
        raise NotImplementedError("an operator of the future")

    monkeypatch.setattr(watched_step, "quotient_of", fails)
    watch = ShockWatch(every_n_steps=2, probe=1)
    heard, _ = survives(watch)
    assert len(heard) == 1
    assert "NotImplementedError: an operator of the future" in heard[0]
    assert watch.values["shockwatch/errors"] == 1.0
    assert watch.values["quotient/norm"] == pytest.approx(watch.values["raw/norm"], rel=1e-6)
    assert watch.values["quotient/path_length"] > 0.0
    assert "shock/lambda_max" not in watch.values


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError("host")])
def test_whatever_the_analysis_raises_the_thread_goes_on(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, roomy: None
) -> None:
    steps: list[int] = []
    process = Engine.process

    def dies(self: Engine, snapshot: Snapshot, probe: bool) -> Observation:
        steps.append(snapshot.step)
        if snapshot.step == 4:
            raise error
        return process(self, snapshot, probe)

    monkeypatch.setattr(Engine, "process", dies)
    watch = ShockWatch(every_n_steps=2, probe="off")
    heard, _ = survives(watch)
    assert len(heard) == 1
    assert type(error).__name__ in heard[0]
    assert steps == [1, 2, 4, 6, 8]
    assert watch.values["shockwatch/errors"] == 1.0
    assert watch.values["quotient/path_length"] > 0.0


def kill(thread: threading.Thread) -> None:
    """What a debugger or a test runner does to a thread."""
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def test_a_killed_worker_loses_nothing(monkeypatch: pytest.MonkeyPatch, roomy: None) -> None:
    fake = FakeAnalysis()
    monkeypatch.setattr(session, "build_engine", lambda *_: fake)

    class Killer(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            for thread in threading.enumerate():
                if thread.name == "shockwatch" and trainer.global_step in (3, 5):
                    time.sleep(0.01)
                    kill(thread)

    watch = ShockWatch(every_n_steps=1, probe=1)
    heard, _ = survives(watch, Killer())
    assert len(heard) <= 1
    # a snapshot in work when it happens is an error, one that was finished is a result
    lost = watch.values["shockwatch/errors"]
    assert watch.values["shockwatch/dropped"] == 0.0
    assert len(fake.steps) <= 8 <= len(fake.steps) + lost
    assert fake.steps[-1] == 8


def test_a_full_queue_for_a_thousand_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAnalysis()
    fake.gate = threading.Event()
    monkeypatch.setattr(session, "build_engine", lambda *_: fake)

    class Opener(pl.Callback):
        def on_train_end(self, *_: Any) -> None:
            assert fake.gate is not None
            fake.gate.set()

    watch = ShockWatch(every_n_steps=1, probe=1)
    heard, trainer = survives(Opener(), watch, max_epochs=252)
    assert heard == []
    assert trainer.global_step == 1008
    assert fake.steps[0] == 1
    assert fake.steps[-1] == 1008
    assert watch.values["shockwatch/dropped"] + len(fake.steps) == 1008


def test_an_analysis_that_hangs_ends_with_the_shutdown_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAnalysis()
    fake.gate = threading.Event()
    monkeypatch.setattr(session, "build_engine", lambda *_: fake)
    watch = ShockWatch(every_n_steps=2, probe=1, shutdown_timeout=0.1)
    start = time.perf_counter()
    heard, _ = survives(watch)
    assert time.perf_counter() - start < 30
    assert heard == ["shockwatch: 3 snapshots were not analysed within 0.1 s and are lost"]
    # five were taken: 1, 2, 4, 6, 8; none came through
    assert watch.values["shockwatch/dropped"] == 5.0
    fake.gate.set()
    for thread in threading.enumerate():
        if thread.name == "shockwatch":
            thread.join(10)


def test_numbers_that_are_none_are_an_error_of_that_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAnalysis()
    monkeypatch.setattr(session, "build_engine", lambda *_: fake)
    process = fake.process
    fake.process = lambda snapshot, probe: Observation(  # type: ignore[method-assign]
        snapshot.step,
        process(snapshot, probe).values | {"raw/norm": "much"},  # type: ignore[dict-item]
    )
    watch, *others = ours()
    heard, _ = survives(watch, *others)
    assert len(heard) == 1
    assert "could not convert string to float" in heard[0]


def test_the_monitor_survives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAnalysis(fail_at={2, 3})
    monkeypatch.setattr(session, "build_engine", lambda *_: fake)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with listening() as heard, ShockMonitor(model, lambda m, b: m(b).sum(), optimizer, 1) as monitor:
        for _ in range(5):
            optimizer.step()
            monitor.step(torch.ones(2))
            monitor.state_dict()
    assert len(heard) == 1
    assert monitor.values["shockwatch/errors"] == 2.0
    assert fake.steps == [1, 4, 5]
