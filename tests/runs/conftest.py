from __future__ import annotations

import functools

import pytest

from shockwatch import session


@pytest.fixture(autouse=True)
def room_for_every_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is dropped on a busy machine: what these runs show depends on the run alone."""
    if not isinstance(session.Capture, functools.partial):
        monkeypatch.setattr(session, "Capture", functools.partial(session.Capture, slots=50))
