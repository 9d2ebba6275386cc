from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_zombie_threads() -> Iterator[None]:
    """Every test ends the worker threads it started."""
    yield
    alive = [thread.name for thread in threading.enumerate() if thread.name == "shockwatch"]
    assert not alive, "the test leaves a worker thread behind"
