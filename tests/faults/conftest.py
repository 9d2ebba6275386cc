from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Iterator

import pytest

from shockwatch import session
from tests.engine.shockwatch_fakes import FakeAnalysis


@pytest.fixture(autouse=True)
def no_zombie_threads() -> Iterator[None]:
    """Every test ends the worker threads it started."""
    yield
    alive = [thread.name for thread in threading.enumerate() if thread.name == "shockwatch"]
    assert not alive, "the test leaves a worker thread behind"


@pytest.fixture(autouse=True)
def interrupts_are_heard() -> Iterator[None]:
    """A shell ignores SIGINT for what it runs in the background, and Python then leaves it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is dropped on a busy machine, and no checkpoint goes without what is in work."""
    monkeypatch.setattr(session, "Capture", functools.partial(session.Capture, slots=50))
    monkeypatch.setattr(session, "CHECKPOINT_TIMEOUT", 200.0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAnalysis:
    """The analysis of every watch of the test."""
    analysis = FakeAnalysis()
    monkeypatch.setattr(session, "build_engine", lambda *_: analysis)
    return analysis
