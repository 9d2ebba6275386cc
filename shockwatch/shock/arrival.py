"""When the next transition arrives: the slice forecast, judged by how past ones have held (theory.md 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from shockwatch.pace import Pace
from shockwatch.shock.probe import Probe
from shockwatch.shock.slice import time_to_steepest

_MEMORY = 8  # probes a trend is read from
_BROKEN = 0.5  # predicted arrival recedes by this much of the time passed: no forecast
_STEADY = 0.15  # predicted arrival recedes by less than this: full evidence
_EARLIER = (0.3, 0.9)  # the same two for an arrival that comes nearer faster than time passes
_NO_LEAD, _FULL_LEAD = 0.1, 0.5  # share of |g|^2 that the unstable part has at arrival
_NO_DROP, _FULL_DROP = 0.01, 0.05  # share of the loss that lies downhill on the slice
_NO_GAIN, _FULL_GAIN = 0.15, 0.45  # steepest descent on the slice over the descent of today
_NO_SPAN, _FULL_SPAN = (
    0.03,
    0.15,
)  # time watched over time forecast: a countdown is verified only as far as seen
_JUMP = 0.5  # a forecast that moves by more than this share of itself, beyond the time passed, is a new one
_SOON = 2.0  # probes: an arrival that came due and is now as near as this again recedes
_FEW = 0.5  # evidence of a trend between two probes, that leaves no residual to judge it by
_NO_SHARE, _FULL_SHARE = 0.1, 0.5  # share of the gradient that speaks for a mode seen only once
_NO_GROWTH, _FULL_GROWTH = (
    0.75,
    1.25,
)  # e-foldings that a mode had ahead of it: with less it is a slope, no plateau
_STEP = 0.5  # steps: events fall on whole ones
_DELAYED = 0.1  # steps per step of delay: the delay shortens the way by half of itself, known to a fifth
_STRAIGHT = 0.006  # of the way ahead: what the path, which bends, makes of a straight slice
_LEAST = 0.05  # below this evidence a forecast is not given


@dataclass(frozen=True)
class Sighting:
    """One past slice forecast. ``training_time`` and ``remaining`` in training time, from the same clock."""

    step: int
    training_time: float
    remaining: float
    curvature: float
    share: float

    @property
    def arrival(self) -> float:
        """Training time at which the transition was said to arrive."""
        return self.training_time + self.remaining


@dataclass(frozen=True)
class Forecast:
    """Remaining training time to the next transition.

    Attributes:
        remaining: NaN where there is none to forecast.
        error: half width of an 80 % interval, in training time; NaN with ``remaining``. How often it covers is
            measured by ``examples/benchmarks/forecast``.
        evidence: in [0, 1]; how far an alert may rest on it.
        reason: one plain sentence where ``remaining`` is NaN or rests on little, else empty.
    """

    remaining: float
    error: float
    evidence: float
    reason: str = ""


def no_forecast(reason: str) -> Forecast:
    """None, and why."""
    return Forecast(math.nan, math.nan, 0.0, reason)


def ramp(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high`` on, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def hypot(*parts: float) -> float:
    """Root of the sum of squares."""
    return math.sqrt(sum(part**2 for part in parts))


def _resolution(probe: Probe, pace: Pace | None) -> float:
    """Training time that the discrete steps of the optimiser leave open."""
    if pace is None:
        return 0.0
    delay = float(pace.delay(np.array([-probe.curvature]))[0])
    return pace.time_per_step * hypot(_STEP, _DELAYED * delay)


def arrival_drift(sightings: Sequence[Sighting]) -> tuple[float, float, float]:
    """Drift of the predicted arrival per unit of time passed, its standard error, and the scatter about it.

    0: the forecast counts down as it should. 1: it recedes as fast as time passes. The slope is the median of
    pairwise slopes (Theil-Sen); error and scatter are NaN for two sightings.

    Raises:
        ValueError: if there are fewer than two.
    """
    if len(sightings) < 2:
        raise ValueError(f"{len(sightings)} sightings: a drift needs at least 2")
    time = np.array([s.training_time for s in sightings])
    arrival = np.array([s.arrival for s in sightings])
    first, second = np.triu_indices(len(time), 1)
    slope = float(np.median((arrival[second] - arrival[first]) / (time[second] - time[first])))
    if len(time) == 2:
        return slope, math.nan, math.nan
    rest = arrival - slope * time
    scatter = 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    return slope, scatter / float(np.sqrt(((time - time.mean()) ** 2).sum())), scatter


def followed(sightings: Sequence[Sighting], new: Sighting) -> tuple[list[Sighting], bool]:
    """Those of ``sightings`` that are about the arrival ``new`` tells of, and ``new``.

    The second value: whether the arrival of the last one came due and is said to be soon once more.
    """
    overdue = False
    if sightings:
        last = sightings[-1]
        passed = new.training_time - last.training_time
        due = last.arrival <= new.training_time + 0.5 * passed < new.arrival
        jumped = abs(new.arrival - last.arrival) > passed + _JUMP * max(new.remaining, last.remaining)
        if passed <= 0.0 or due or jumped:  # about another mode (or about nothing): start again
            overdue = due and new.remaining <= _SOON * passed
            sightings = []
    # what was seen longer ago than the transition is ahead says little about it
    recent = [s for s in sightings[:-2] if new.training_time - s.training_time <= new.remaining]
    return [*recent, *sightings[-2:], new][-_MEMORY:], overdue


@dataclass(frozen=True)
class Trend:
    """How the predicted arrival has held.

    Attributes:
        trust: in [0, 1].
        drift: per unit of time passed, its size or its error, whichever is larger.
        scatter: about the drift.
    """

    trust: float
    drift: float
    scatter: float


def trend_of(sightings: Sequence[Sighting], trust: float = 1.0) -> Trend | None:
    """That of two sightings or more; None where the arrival recedes.

    Args:
        trust: what there is before they are looked at.
    """
    drift, drift_error, scatter = arrival_drift(sightings)
    if drift >= _BROKEN:
        return None
    if math.isnan(drift_error):
        trust, drift_error, scatter = _FEW * trust, abs(drift), 0.0
    limits = (_STEADY, _BROKEN) if drift > 0.0 else _EARLIER
    trust *= 1.0 - ramp(abs(drift) + drift_error, *limits)
    watched, remaining = sightings[-1].training_time - sightings[0].training_time, sightings[-1].remaining
    trust *= 1.0 if watched >= remaining else ramp(watched / remaining, _NO_SPAN, _FULL_SPAN)
    return Trend(trust, max(abs(drift), drift_error), scatter)


def steady_forecast(remaining: float, error: float, evidence: float, trust: float) -> Forecast:
    """One that rests on a `Trend`, as far as that is trusted."""
    if evidence * trust <= _LEAST:
        return no_forecast("the predicted arrival has not held still for long enough to trust it")
    return Forecast(
        remaining, error, evidence * trust, "" if trust >= 0.5 else "the predicted arrival still moves"
    )


class ArrivalForecaster:
    """Turns probes into forecasts; remembers the last few sightings of the mode that is on its way.

    A single slice forecast assumes that ``lambda_min`` keeps its value. Where it relaxes as fast as the mode
    grows (a ReLU network after its transition) every forecast says "soon" and the arrival recedes for ever.
    So the forecast is trusted as far as (i) the arrival it names stays put while time passes, (ii) the
    unstable part of the gradient, by linear response, leads ``|g|^2`` by then, (iii) the slice goes down by a
    visible share of the loss, (iv) at its steepest it descends about as fast as the run does now, or the
    run would not feel it, and (v) the mode had more than an e-folding of growth ahead when it was first seen, or
    there is a slope and no plateau to wait on. A receding arrival replaces the rule ``T' = -ln(1 - gamma T) / gamma``:
    both extrapolate the same relaxation, but the arrival is the integral of what ``lambda_min`` and the
    share do, and so far less noisy than their slopes.
    """

    def __init__(self) -> None:
        self._sightings: list[Sighting] = []
        self._probes = 0
        self._overdue = False
        self._growth = 0.0  # most e-foldings the mode that is on its way had ahead of it

    def update(self, probe: Probe, *, step: int, training_time: float, pace: Pace | None = None) -> Forecast:
        """Forecast from a new probe, in training time; ``pace`` is that of the optimiser, None: the gradient flow."""
        self._probes += 1
        if not probe.unstable:
            self._sightings = []
            return no_forecast("no direction is unstable beyond the Lanczos residual")
        if probe.gradient_measure is None:
            self._sightings = []
            return no_forecast("the gradient is zero: nothing says when the unstable direction is left")
        if probe.slice is None:
            self._sightings = []
            return no_forecast("the loss turns up at once along the unstable direction")
        remaining, place = time_to_steepest(probe.slice, pace)
        if not math.isfinite(remaining):
            self._sightings = []
            return no_forecast("the slice along the unstable direction has no steepest point ahead")
        gain = -float(probe.slice.slope_at(np.array([place]))[0]) / probe.gradient_norm
        weights = (
            (
                ramp(probe.slice.relative_drop, _NO_DROP, _FULL_DROP),
                "the unstable direction carries away less than a few per cent of the loss",
            ),
            (
                ramp(gain, _NO_GAIN, _FULL_GAIN),
                "even at its steepest the unstable direction would descend much slower than the run does now",
            ),
            (
                ramp(self._lead(probe, remaining), _NO_LEAD, _FULL_LEAD),
                "the unstable part of the gradient does not lead by the time it would arrive",
            ),
        )
        weight, reason = min(weights)
        if weight <= _LEAST:
            return no_forecast(reason)
        self._remember(Sighting(step, training_time, remaining, probe.curvature, probe.share))
        weight = ramp(self._growth, _NO_GROWTH, _FULL_GROWTH)
        if weight <= _LEAST:
            return no_forecast(
                "the unstable mode has no e-folding of growth ahead of it: a slope, not a plateau"
            )
        # of an eigenvalue the error is quadratic in its residual, with a gap of about half of itself
        loose = probe.residual_min / probe.lambda_min
        known = hypot(
            remaining * loose * min(1.0, 2.0 * abs(loose)), _resolution(probe, pace), _STRAIGHT * remaining
        )
        return self._judge(remaining, weight * math.prod(w for w, _ in weights), probe, known)

    def _remember(self, new: Sighting) -> None:
        self._sightings, self._overdue = followed(self._sightings, new)
        ahead = -new.curvature * new.remaining
        self._growth = max(self._growth, ahead) if len(self._sightings) > 1 else ahead

    @staticmethod
    def _lead(probe: Probe, time: float) -> float:
        measure = probe.gradient_measure
        return measure.response(time, below=0.0) / measure.response(time) if measure is not None else 0.0

    def _judge(self, remaining: float, evidence: float, probe: Probe, known: float) -> Forecast:
        """The forecast; ``known`` is the part of its error that needs no past."""
        settling = min(remaining, -1.0 / probe.curvature)
        if self._overdue:
            return no_forecast("the arrival came due at the last probe, and is said to be soon once more")
        if len(self._sightings) < 2:
            evidence *= _FEW * ramp(probe.share, _NO_SHARE, _FULL_SHARE)
            if evidence <= _LEAST:
                return no_forecast("a new unstable direction: one probe is not enough to forecast by")
            error = hypot(_BROKEN * settling, known)
            if self._probes == 1:
                return Forecast(remaining, error, 0.0, "one probe so far: no trend to judge the forecast by")
            return Forecast(remaining, error, evidence, "a new unstable direction, seen once")
        trend = trend_of(self._sightings)
        if trend is None:
            return no_forecast(
                "the arrival recedes as time passes: the curvature relaxes before the mode leads"
            )
        error = hypot(trend.scatter, settling * trend.drift, known)
        return steady_forecast(remaining, error, evidence, trend.trust)

    def state_dict(self) -> dict[str, object]:
        """Plain numbers, for a checkpoint."""
        return {
            "probes": self._probes,
            "sightings": [asdict(s) for s in self._sightings],
            "growth": self._growth,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: if ``state`` is not such a mapping.
        """
        probes, sightings = state.get("probes"), state.get("sightings")
        if not isinstance(probes, int) or not isinstance(sightings, list):
            raise ValueError(f"state={dict(state)!r}: needs an integer 'probes' and a list 'sightings'")
        self._probes, self._sightings = probes, [Sighting(**entry) for entry in sightings]
        growth = state.get("growth")
        # the first releases kept none: what the sightings themselves tell
        known = max((-s.curvature * s.remaining for s in self._sightings), default=0.0)
        self._growth = float(growth) if isinstance(growth, float) else known
