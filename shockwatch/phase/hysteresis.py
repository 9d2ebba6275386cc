"""A switch that does not flicker."""

from __future__ import annotations

import math
from typing import Any


class Hysteresis:
    """On after ``patience_enter`` values >= ``enter``, off after ``patience_leave`` values < ``leave``.

    Values in between restart both counts and leave the switch where it is. NaN counts as below ``leave``:
    what is not supported does not keep a claim alive.
    """

    def __init__(self, *, enter: float, leave: float, patience_enter: int, patience_leave: int) -> None:
        self.on = False
        self._count = 0
        self._enter, self._leave = enter, leave
        self._patience_enter, self._patience_leave = patience_enter, patience_leave

    def update(self, value: float) -> bool:
        """Take the next value and return whether the switch is on."""
        if self.on:
            self._count = self._count + 1 if math.isnan(value) or value < self._leave else 0
            patience = self._patience_leave
        else:
            self._count = self._count + 1 if value >= self._enter else 0
            patience = self._patience_enter
        if self._count >= patience:
            self.on, self._count = not self.on, 0
        return self.on

    def force(self) -> None:
        """Switch on at once."""
        self.on, self._count = True, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain types."""
        return {"on": self.on, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`."""
        self.on, self._count = bool(state["on"]), int(state["count"])
