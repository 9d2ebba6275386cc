"""How past forecasts have held: each is scored at the event it predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shockwatch.curvature.spectral_measure import SpectralMeasure

_FALL = 1.5  # the unstable part of the gradient only grows while its modes stay unstable: by this much it never falls
_VISIBLE = 0.1  # share of |g|^2 that the unstable part has before an event
_KEPT = 0.25  # share of its |g|^2 that a mode keeps, at least, around its peak
_MEMORY = 64  # scores the median is taken over, and forecasts that wait for their event


@dataclass(frozen=True)
class ScoredEvent:
    """An event that has passed, in training time, and ``(made at, arrival)`` of the forecasts before it."""

    time: float
    forecasts: tuple[tuple[float, float], ...]


class ForecastScore:
    """Finds events as they pass, and scores the forecasts made before them.

    An event is what the forecast names: the steepest point of the descent along the unstable direction, where the
    curvature along it passes zero. The mode then leaves the unstable part of the gradient (the negative nodes of its
    spectral measure), which otherwise only grows: an event is told when that part, having carried a tenth of
    ``|g|^2``, has fallen by a factor of 1.5 since the probe before. A tail of an earlier transition lies on positive
    nodes and hides nothing, as it does in the norm of the whole gradient. The time of the event is where the straight
    line through the curvature of the unstable part before and that of the mode after (the lowest node above zero that
    carries a quarter of it) passes zero. Every forecast made since the last event scores
    ``|forecast - actual| / remaining``; forecasts that no event follows are never scored.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float, float] | None = None  # time, norm and curvature of the unstable part
        self._pending: list[tuple[float, float]] = []  # made at, arrival
        self._scores: list[float] = []

    @property
    def value(self) -> float:
        """Median score of the last 64 forecasts that were scored; NaN before the first."""
        return float(np.median(self._scores)) if self._scores else math.nan

    def update(
        self, *, training_time: float, measure: SpectralMeasure | None, remaining: float
    ) -> ScoredEvent | None:
        """Take one probe and the forecast made at it; returns the event that has just passed.

        Args:
            training_time: of the probe.
            measure: spectral measure of the gradient there; None where it is zero.
            remaining: forecast, in training time; NaN: none.
        """
        scored = None
        event = self._event(training_time, measure)
        if math.isfinite(event):
            judged = [(made, arrival) for made, arrival in self._pending if made < event]
            scored = ScoredEvent(event, tuple(judged))
            self._scores += [abs(arrival - event) / (event - made) for made, arrival in judged]
            self._scores = self._scores[-_MEMORY:]
            self._pending = [(made, arrival) for made, arrival in self._pending if made >= event]
        if math.isfinite(remaining):
            self._pending = [*self._pending, (training_time, training_time + remaining)][-_MEMORY:]
        return scored

    def _event(self, time: float, measure: SpectralMeasure | None) -> float:
        """Time of an event since the last probe; NaN if there is none."""
        before, self._last = self._last, None
        if measure is None or not 0.0 < measure.total < math.inf:
            return math.nan
        unstable = measure.nodes < 0.0
        weight = float(measure.weights[unstable].sum())
        if weight > _VISIBLE * measure.total:
            curvature = float(measure.weights[unstable] @ measure.nodes[unstable]) / weight
            self._last = (time, math.sqrt(weight), curvature)
        if before is None or time <= before[0] or math.sqrt(weight) * _FALL >= before[1]:
            return math.nan
        start, norm, curvature = before
        passed = (measure.nodes >= 0.0) & (measure.weights >= _KEPT * norm**2)
        if not passed.any():
            return 0.5 * (start + time)
        after = float(measure.nodes[passed].min())
        return start + (time - start) * curvature / (curvature - after)

    def state_dict(self) -> dict[str, object]:
        """Plain numbers, for a checkpoint."""
        return {
            "last": self._last and list(self._last),
            "pending": [list(entry) for entry in self._pending],
            "scores": list(self._scores),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: if ``state`` is not such a mapping.
        """
        last, pending, scores = state.get("last"), state.get("pending"), state.get("scores")
        if not (isinstance(pending, list) and isinstance(scores, list)):
            raise ValueError(f"state={dict(state)!r}: needs lists 'pending' and 'scores'")
        # earlier releases kept a series of gradient norms instead: the next probe is then the first
        self._last = (float(last[0]), float(last[1]), float(last[2])) if isinstance(last, list) else None
        self._pending = [(float(made), float(arrival)) for made, arrival in pending]
        self._scores = [float(score) for score in scores]
