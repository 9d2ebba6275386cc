"""When the next transition of an Adam run arrives: where its own path, looked ahead, is steepest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from shockwatch.curvature.ritz import Array
from shockwatch.shock.adam_path import AdamPath
from shockwatch.shock.arrival import (
    Forecast,
    Sighting,
    followed,
    hypot,
    no_forecast,
    ramp,
    steady_forecast,
    trend_of,
)

# What an AdamPath says: no, and full, evidence of
_NO_RISE, _FULL_RISE = 0.15, 0.4  # e-foldings that the gradient has ahead of it, from its lowest to its peak
_NO_FALL, _FULL_FALL = 0.05, 0.15  # and that it falls behind the peak, as far as the path reaches
_NO_DROP, _FULL_DROP = 0.1, 0.3  # share of today's loss that is gone by then
_NO_LONE_DROP, _FULL_LONE_DROP = 0.4, 0.7  # the same for a peak seen only once
_ALL_OWN, _SHARED = 0.2, 0.08  # `AdamPath.foreign`
_FEW = 0.5  # evidence of one look
_LEAST = 0.05  # below this evidence a forecast is not given

# Which peaks are one and the same
_SAME = 0.3  # of what is left, or of Adam's memory: so near to where it was expected it is the same
_MEMORIES = 2.0  # of Adam: a new one nearer than that is where the last batches have pushed the run

# How far off they may be, in shares of the way ahead where nothing else is said
_STEP = 0.5  # steps: events fall on whole ones
_STRAIGHT = 0.012  # with no noise at all
_MOST_NOISE = 0.1
_LONE = 0.1  # how much the second look moves what the first has said
_GOES_ON = 0.6  # how much of a drift there is until it arrives
_BETWEEN = 0.1  # of a leap: a peak is read off a parabola through three points

_PASSED = 0.7  # e-foldings behind a peak with full evidence, after which the path has shown enough


@dataclass(frozen=True)
class Peak:
    """A peak of the gradient norm along a path.

    Attributes:
        steps: until it is reached.
        spacing: of the points around it.
        rise, fall: of the log norm, from the lowest point before to the peak, and to the lowest one behind.
        drop: what the loss loses between those two points, over the loss of today.
    """

    steps: float
    spacing: float
    rise: float
    fall: float
    drop: float

    @property
    def evidence(self) -> float:
        """In [0, 1]: how far it stands out."""
        return (
            ramp(self.rise, _NO_RISE, _FULL_RISE)
            * ramp(self.fall, _NO_FALL, _FULL_FALL)
            * ramp(self.drop, _NO_DROP, _FULL_DROP)
        )


def shows_enough(path: AdamPath) -> bool:
    """Whether the rest of the path would say nothing more: a peak that stands out has been passed, or the batch does
    not stand for the others."""
    peak = first_peak(path)
    passed = (
        peak is not None and peak.fall > _PASSED and peak.drop >= _FULL_LONE_DROP and peak.evidence >= 1.0
    )
    return passed or path.foreign >= _ALL_OWN


def first_peak(path: AdamPath, expected: float = math.nan, risen: float = 0.0) -> Peak | None:
    """The first one that stands out; None where there is none in reach.

    Args:
        expected: steps until one that was seen before, if any: close to it there is little left to rise.
        risen: what that one had ahead of it when it was seen best.
    """
    logs = np.log(np.maximum(path.norms, 1e-300))
    for place in range(1, len(logs) - 1):
        if logs[place] < logs[place - 1] or logs[place] <= logs[place + 1]:
            continue
        higher = np.flatnonzero(logs > logs[place])
        begin = int(max(higher[higher < place], default=-1)) + 1
        end = int(min(higher[higher > place], default=len(logs)))
        low = begin + int(logs[begin : place + 1].argmin())
        behind = place + int(logs[place:end].argmin())
        around = slice(place - 1, place + 2)
        steps, rise = _top(path.steps[around], logs[around]), float(logs[place] - logs[low])
        if abs(steps - expected) <= _SAME * max(steps, path.memory):
            rise = max(rise, risen)
        peak = Peak(
            steps,
            0.5 * float(path.steps[place + 1] - path.steps[place - 1]),
            rise,
            float(logs[place] - logs[behind]),
            float(path.losses[low] - path.losses[behind]) / max(abs(float(path.losses[0])), 1e-300),
        )
        if peak.evidence > _LEAST:
            return peak
    return None


class LookaheadForecaster:
    """Turns paths into forecasts in steps; remembers the last few sightings of the peak that is on its way.

    A path knows one batch, and the noise of others only as it is today. So it is trusted as far as (i) the batch stands
    for the others, (ii) the peak stands out of today by its height, by the fall behind it and by the share of the loss
    that it carries away, and (iii) the arrival it names stays put while time passes. One that recedes, that came due
    and is said to be soon once more, or that lies within Adam's memory when first seen, is the noise of batches
    relaxing on one of them, or a tail that bends.
    """

    def __init__(self) -> None:
        self._sightings: list[Sighting] = []

    def update(self, path: AdamPath | None, step: int) -> Forecast:
        """Forecast from a new path, in steps; ``step`` is that of its first point. None: what was seen stays."""
        if path is None:
            return no_forecast("what Adam holds did not come with this snapshot")
        shared = 1.0 - ramp(path.foreign, _SHARED, _ALL_OWN)
        if shared <= _LEAST:
            self._sightings = []
            return no_forecast("most of the batch's gradient is its own: its path is not that of the run")
        last = self._sightings[-1] if self._sightings else None
        expected, risen = (last.arrival - step, -last.curvature * last.remaining) if last else (math.nan, 0.0)
        peak = first_peak(path, expected, risen)
        if peak is None:
            self._sightings = []
            return no_forecast("the gradient has no peak as far as the look-ahead reaches")
        new = Sighting(step, float(step), peak.steps, -peak.rise / peak.steps, peak.drop)
        self._sightings, overdue = followed(self._sightings, new)
        if overdue:
            return no_forecast("the peak came due at the last look, and is said to be soon once more")
        open_ = _STRAIGHT + min(path.noise, _MOST_NOISE)
        known = hypot(_STEP, open_ * peak.steps, _BETWEEN * peak.spacing)
        if len(self._sightings) < 2:
            return _seen_once(peak, path, known, shared)
        trend = trend_of(self._sightings, shared)
        if trend is None:
            return no_forecast("the peak recedes as time passes")
        error = hypot(trend.scatter, _GOES_ON * peak.steps * trend.drift, known)
        return steady_forecast(peak.steps, error, peak.evidence, trend.trust)

    def state_dict(self) -> dict[str, object]:
        """Plain numbers, for a checkpoint."""
        return {"sightings": [asdict(s) for s in self._sightings]}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: if ``state`` is not such a mapping.
        """
        sightings = state.get("sightings")
        if not isinstance(sightings, list):
            raise ValueError(f"state={dict(state)!r}: needs a list 'sightings'")
        self._sightings = [Sighting(**entry) for entry in sightings]


def _seen_once(peak: Peak, path: AdamPath, known: float, shared: float) -> Forecast:
    alone = shared * _FEW * peak.evidence * ramp(peak.drop, _NO_LONE_DROP, _FULL_LONE_DROP)
    if alone <= _LEAST or peak.steps < _MEMORIES * path.memory:
        return no_forecast("a new peak: one look is not enough to forecast by")
    return Forecast(peak.steps, hypot(known, _LONE * peak.steps), alone, "a new peak, seen once")


def _top(steps: Array, logs: Array) -> float:
    """Where the parabola through three points is highest."""
    a, b = steps[0] - steps[1], steps[2] - steps[1]
    fa, fb = logs[0] - logs[1], logs[2] - logs[1]
    bend = (fa / a - fb / b) / (a - b)
    return float(steps[1] - 0.5 * (fa / a - bend * a) / bend) if bend < 0.0 else float(steps[1])
