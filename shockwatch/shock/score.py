"""How past forecasts have held: each is scored at the event it predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_SWING = 1.2  # an event is a peak of the gradient norm that rises and falls by this factor
_MEMORY = 64  # scores the median is taken over, and forecasts that wait for their event
_LONGEST = 512  # probes a peak may take


@dataclass(frozen=True)
class ScoredEvent:
    """An event that has passed, in training time, and ``(made at, arrival)`` of the forecasts before it."""

    time: float
    forecasts: tuple[tuple[float, float], ...]


class ForecastScore:
    """Finds events as they pass, and scores the forecasts made before them.

    An event is what the forecast names: the steepest point of the descent, a peak of the gradient norm. It is told
    when the norm at a later probe has fallen by a factor of 1.2 from a peak that stands 1.2 times above the lowest
    value since the last event; its time is refined by a parabola through the logarithms at three probes. Every
    forecast made since the last event scores ``|forecast - actual| / remaining``; forecasts that no event
    follows are never scored.
    """

    def __init__(self) -> None:
        self._norms: list[
            tuple[float, float]
        ] = []  # training time and log gradient norm since the last event
        self._pending: list[tuple[float, float]] = []  # made at, arrival
        self._scores: list[float] = []

    @property
    def value(self) -> float:
        """Median score of the last 64 forecasts that were scored; NaN before the first."""
        return float(np.median(self._scores)) if self._scores else math.nan

    def update(self, *, training_time: float, gradient_norm: float, remaining: float) -> ScoredEvent | None:
        """Take one probe and the forecast made at it (NaN: none); returns the event that has just passed."""
        event, scored = math.nan, None
        if 0.0 < gradient_norm < math.inf and (not self._norms or training_time > self._norms[-1][0]):
            self._norms.append((training_time, math.log(gradient_norm)))
            event = self._event()
        if math.isfinite(event):
            judged = [(made, arrival) for made, arrival in self._pending if made < event]
            scored = ScoredEvent(event, tuple(judged))
            self._scores += [abs(arrival - event) / (event - made) for made, arrival in judged]
            self._scores = self._scores[-_MEMORY:]
            self._pending = [(made, arrival) for made, arrival in self._pending if made >= event]
            self._norms = [entry for entry in self._norms if entry[0] > event]
        if math.isfinite(remaining):
            self._pending = [*self._pending, (training_time, training_time + remaining)][-_MEMORY:]
        return scored

    def _event(self) -> float:
        """Time of a peak that has passed; NaN if there is none. Forgets what can be no foot of a peak any more."""
        logs = np.array([log for _, log in self._norms])
        swing = math.log(_SWING)
        risen = logs - np.minimum.accumulate(logs) >= swing
        passed = np.flatnonzero(risen & (logs - logs[-1] >= swing))
        if len(passed) == 0:
            if int(logs.argmin()) == len(logs) - 1:
                self._norms = self._norms[-1:]
            self._norms = self._norms[-_LONGEST:]
            return math.nan
        peak = int(passed[logs[passed].argmax()])
        (t0, y0), (t1, y1), (t2, y2) = self._norms[peak - 1 : peak + 2]
        first, second = (y1 - y0) / (t1 - t0), (y2 - y1) / (t2 - t1)
        bend = (second - first) / (t2 - t0)
        return 0.5 * (t0 + t1) - first / (2.0 * bend) if bend < 0.0 else t1

    def state_dict(self) -> dict[str, object]:
        """Plain numbers, for a checkpoint."""
        return {
            "norms": [list(entry) for entry in self._norms],
            "pending": [list(entry) for entry in self._pending],
            "scores": list(self._scores),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: if ``state`` is not such a mapping.
        """
        norms, pending, scores = (state.get(key) for key in ("norms", "pending", "scores"))
        if not (isinstance(norms, list) and isinstance(pending, list) and isinstance(scores, list)):
            raise ValueError(f"state={dict(state)!r}: needs lists 'norms', 'pending' and 'scores'")
        self._norms = [(float(time), float(log)) for time, log in norms]
        self._pending = [(float(made), float(arrival)) for made, arrival in pending]
        self._scores = [float(score) for score in scores]
