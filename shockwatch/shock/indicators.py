"""The ``shock/`` scalars of one probe, and what has to be said about them (theory.md 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from shockwatch.errors import require_positive_int
from shockwatch.pace import Pace
from shockwatch.shock.adam_path import AdamPath
from shockwatch.shock.arrival import ArrivalForecaster, Forecast
from shockwatch.shock.hopf_lax import strength, tie_gap
from shockwatch.shock.local_entropy import laplace
from shockwatch.shock.lookahead import LookaheadForecaster
from shockwatch.shock.probe import Probe
from shockwatch.shock.score import ForecastScore, ScoredEvent

_LARGEST_PROXIMITY = 10.0  # keeps a controller that divides by it, and the axis of a plot, in range


class ShockIndicators:
    """Turns the probes of a run into the ``shock/`` tags; remembers what the forecast needs.

    ``shock/proximity`` is ``horizon / arrival_steps`` times the evidence of the arrival forecast, cut at 10,
    and 0 where there is no forecast. It rests on the arrival and not on ``tau*``: on a plateau ``tau*`` is a
    constant that does not know how far the mode has grown, the arrival counts down; and after a transition
    ``tau*`` stays finite for thousands of steps while the arrival recedes and the evidence is gone. The bare
    ``tau*`` stays visible as ``shock/time`` and ``shock/steps``.

    For Adam the forecast is that of its own path, in steps. It belongs to the gauge the run is in, because the
    optimiser does; all other tags are those of the quotient.

    Attributes:
        scored: the event that the last update saw pass, if any.

    Raises:
        ValueError: if ``horizon`` is not an integer >= 1.
    """

    def __init__(self, horizon: int) -> None:
        self.scored: ScoredEvent | None = None
        self._horizon = require_positive_int("horizon", horizon)
        self._forecaster = ArrivalForecaster()
        self._lookahead: LookaheadForecaster | None = None
        self._score = ForecastScore()
        self._said: dict[str, str] = {}

    @property
    def counts_steps(self) -> bool:
        """Whether the clock of forecasts and scores is the number of steps: Adam's; else it is training time."""
        return self._lookahead is not None

    def update(
        self,
        probe: Probe,
        *,
        step: int,
        training_time: float,
        time_per_step: float,
        viscosity: float,
        pace: Pace | None = None,
        path: AdamPath | None = None,
        displacement_alignment: float = math.nan,
        residual: float = math.nan,
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Scalars by tag, and notes: one plain sentence each, given when it changes.

        Args:
            probe: the point.
            step: optimiser step of the snapshot.
            training_time: sum of effective learning rates up to it.
            time_per_step: effective learning rate; NaN where the clock is not set by it: then all values in
                steps are NaN and proximity is 0, but for what ``path`` tells.
            viscosity: ``nu`` (theory.md 4), in units of the loss; NaN if unknown.
            pace: of the optimiser, for the lag of its discrete steps and its momentum; None: forecast the flow.
            path: of Adam from the raw point on; None for other optimisers, or where it could not be had.
            displacement_alignment: cosine between horizontal displacement and descent; passed through.
            residual: `burgers_residual` at the point; passed through.
        """
        clocked = 0.0 < time_per_step < math.inf
        steps = 1.0 / time_per_step if clocked else math.nan
        arrives, clock = steps, training_time
        if path is not None or self._lookahead is not None:
            if self._lookahead is None:
                # scores so far were in training time
                self._lookahead, self._score = LookaheadForecaster(), ForecastScore()
            forecast = self._lookahead.update(path, step)
            arrives, clock = 1.0, float(step)
        else:
            forecast = self._forecaster.update(probe, step=step, training_time=training_time, pace=pace)
        self.scored = self._score.update(
            training_time=clock, measure=probe.gradient_measure, remaining=forecast.remaining
        )
        breakdown = -1.0 / probe.lambda_min if probe.lambda_min < 0.0 else math.inf
        measure = probe.gradient_measure
        averaging = min(self._horizon * time_per_step if clocked else math.inf, 0.5 * breakdown)
        gap, why = math.nan, "the viscosity or the time to average over is not known"
        if measure is not None and viscosity >= 0.0 and math.isfinite(averaging):
            entropy = laplace(measure, (probe.noise_measure,), averaging, viscosity)
            gap, why = entropy.gap, entropy.reason
        values = {
            "shock/lambda_min": probe.lambda_min,
            "shock/lambda_max": probe.lambda_max,
            "shock/time": breakdown,
            "shock/steps": breakdown * steps,
            "shock/proximity": self._proximity(forecast, arrives),
            "shock/rate": measure.rate if measure is not None else math.nan,
            "shock/reynolds": _reynolds(probe, viscosity),
            "shock/strength": _strength(probe),
            "shock/basin_gap": _basin_gap(probe),
            "shock/burgers_residual": residual,
            "shock/arrival_steps": forecast.remaining * arrives,
            "shock/arrival_error": forecast.error * arrives,
            "shock/forecast_score": self._score.value,
            "shock/gradient_field": displacement_alignment,
            "shock/local_entropy_gap": gap,
        }
        reasons = {
            "shock/arrival_steps": forecast.reason,
            "shock/steps": ""
            if clocked
            else "the learning rate does not set the clock, so steps are unknown",
            "shock/local_entropy_gap": why,
            "shock/reynolds": "" if viscosity > 0.0 else "the viscosity is not known, or zero",
        }
        return values, self._news(reasons)

    def _proximity(self, forecast: Forecast, steps: float) -> float:
        remaining = forecast.remaining * steps
        if not math.isfinite(remaining):
            return 0.0
        return min(_LARGEST_PROXIMITY, self._horizon / max(remaining, 1.0)) * forecast.evidence

    def _news(self, reasons: Mapping[str, str]) -> tuple[str, ...]:
        news = [f"{tag}: {why}." for tag, why in reasons.items() if why and why != self._said.get(tag, "")]
        self._said = dict(reasons)
        return tuple(news)

    def state_dict(self) -> dict[str, object]:
        """Plain numbers and strings, for a checkpoint."""
        return {
            "forecaster": self._forecaster.state_dict(),
            "score": self._score.state_dict(),
            "said": dict(self._said),
            "lookahead": None if self._lookahead is None else self._lookahead.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: if ``state`` is not such a mapping.
        """
        forecaster, said = state.get("forecaster"), state.get("said")
        score = state.get("score", self._score.state_dict())  # the first releases kept none
        if not (isinstance(forecaster, Mapping) and isinstance(score, Mapping) and isinstance(said, Mapping)):
            raise ValueError(f"state={dict(state)!r}: needs mappings 'forecaster', 'score' and 'said'")
        self._forecaster.load_state_dict(forecaster)
        self._score.load_state_dict(score)
        if isinstance(lookahead := state.get("lookahead"), Mapping):
            self._lookahead = LookaheadForecaster()
            self._lookahead.load_state_dict(lookahead)
        self._said = {str(tag): str(why) for tag, why in said.items()}


def _reynolds(probe: Probe, viscosity: float) -> float:
    """``|v|^2 / (|lambda_min| nu)``; 0 where nothing steepens, NaN where the viscosity is unknown or zero."""
    if not viscosity > 0.0:
        return math.nan
    return probe.gradient_norm**2 / (-probe.lambda_min * viscosity) if probe.unstable else 0.0


def _basin_gap(probe: Probe) -> float:
    """Gap of the two lowest basins on the unstable slice, at the same time as the strength."""
    if probe.slice is None:
        return math.nan
    return tie_gap(probe.slice.positions, probe.slice.losses, -2.0 / probe.slice.curvature)


def _strength(probe: Probe) -> float:
    """Jump of ``v`` on the unstable slice at twice the time its own curvature sets: the shock has then
    formed."""
    if probe.slice is None:
        return 0.0
    return strength(probe.slice.positions, probe.slice.losses, -2.0 / probe.slice.curvature)
