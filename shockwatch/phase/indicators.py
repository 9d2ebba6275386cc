"""All phase indicators of one run, observation by observation."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from shockwatch.phase.change_point import ChangePointDetector
from shockwatch.phase.early_warning import autocorrelation, trend, variance
from shockwatch.phase.sharpening import Sharpening
from shockwatch.phase.stability import Stability
from shockwatch.phase.state import PhaseMachine
from shockwatch.phase.surrogates import rise
from shockwatch.phase.susceptibility import Susceptibility

_SOURCES = ("quotient/speed", "quotient/norm")
# In log units: a standard error below 10 % of the speed is not believed, see ChangePointDetector.
_FLOOR = 0.1


class PhaseIndicators:
    """Early-warning statistics, change points and the phase, from the scalars of each observation.

    The watched series is the logarithm of ``quotient/speed``: it does not depend on the gauge, its
    fluctuations are relative, and rescaling the parameters or the clock only shifts it. Where an
    observation holds no ``quotient/speed`` at all, ``quotient/norm`` stands in; a change of source
    starts the window anew, and so does a step that is not later than the last one (a run that was set
    back). A value that is not positive and finite has no logarithm and leaves the window as it is.

    Every quantity costs a bounded amount per observation: the window holds at most ``window``.

    Args:
        window: observations remembered, at least 16.
        mean_run_length: observations of white noise per false change point.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, window: int = 64, mean_run_length: float = 1000.0) -> None:
        self._detector = ChangePointDetector(mean_run_length, window, floor=_FLOOR)
        self._times: deque[float] = deque(maxlen=window)
        self._series: deque[float] = deque(maxlen=window)
        self._source = ""
        self._machine = PhaseMachine()
        self._stability = Stability()
        self._susceptibility = Susceptibility(window)
        self._sharpening = Sharpening()

    def update(
        self,
        step: int,
        values: Mapping[str, float],
        *,
        loss: float,
        finite: bool,
    ) -> dict[str, float]:
        """Take the scalars of one observation and return the ``phase/`` tags.

        Args:
            step: optimiser step of the snapshot.
            values: scalars by tag; missing ones are allowed.
            loss: training loss at that step; NaN and infinity mean that training diverges.
            finite: whether all parameters are finite.

        Returns:
            ``phase/changepoint``, ``variance``, ``autocorrelation``, ``trend``, their p-values,
            ``susceptibility`` and ``state``; the statistics are NaN until three values have been watched (the
            p-values: 16), change point and state never. Where the curvature was measured also
            ``phase/edge_steps`` and ``edge_error``, and of blocks that feed a softmax ``block/<name>/collapse_steps``.
        """
        changed = self._watch(step, values) if finite else False
        state = self._machine.update(
            finite=finite,
            loss=loss,
            proximity=values.get("shock/proximity"),
            speed=values.get("quotient/speed", math.nan),
            lambda_min=values.get("shock/lambda_min", math.nan),
            lambda_max=values.get("shock/lambda_max", math.nan),
        )
        times, series = list(self._times), list(self._series)
        variance_rise, autocorrelation_rise = rise(times, series)
        norm, viscosity = (values.get(f"quotient/{name}", math.nan) for name in ("norm", "viscosity"))
        return {
            "phase/changepoint": float(changed),
            "phase/variance": variance(times, series),
            "phase/autocorrelation": autocorrelation(times, series),
            "phase/trend": trend(times, series),
            "phase/variance_pvalue": variance_rise,
            "phase/autocorrelation_pvalue": autocorrelation_rise,
            "phase/susceptibility": self._susceptibility.update(float(step), norm, viscosity),
            "phase/state": float(state),
            **self._edge(step, values),
            **self._sharpening.update(step, values),
        }

    def _edge(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        if "shock/lr_lambda_max" not in values:
            return {}
        steps, error = self._stability.update(step, values["shock/lr_lambda_max"] / 2.0)
        return {"phase/edge_steps": steps, "phase/edge_error": error}

    def _watch(self, step: int, values: Mapping[str, float]) -> bool:
        """Append to the window what can be appended; tell whether it is a change point."""
        source = next((tag for tag in _SOURCES if tag in values), "")
        value = values.get(source, math.nan)
        if not (math.isfinite(value) and value > 0.0):
            return False
        if source != self._source or (self._times and step <= self._times[-1]):
            self._restart(source)
        self._times.append(float(step))
        self._series.append(math.log(value))
        return self._detector.update(self._times[-1], self._series[-1])

    def _restart(self, source: str) -> None:
        self._source = source
        self._times.clear()
        self._series.clear()
        self._detector.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain types, fit for a checkpoint loaded with ``weights_only``."""
        return {
            "source": self._source,
            "times": list(self._times),
            "series": list(self._series),
            "detector": self._detector.state_dict(),
            "machine": self._machine.state_dict(),
            "stability": self._stability.state_dict(),
            "susceptibility": self._susceptibility.state_dict(),
            "sharpening": self._sharpening.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`.

        Raises:
            ValueError: if the series has not one time for each value.
        """
        if len(state["times"]) != len(state["series"]):
            raise ValueError(f"times: {len(state['times'])} for a series of {len(state['series'])} values")
        self._restart(str(state["source"]))
        self._times.extend(float(time) for time in state["times"])
        self._series.extend(float(value) for value in state["series"])
        self._detector.load_state_dict(state["detector"])
        self._machine.load_state_dict(state["machine"])
        if "stability" in state:  # the first releases had neither
            self._stability.load_state_dict(state["stability"])
            self._susceptibility.load_state_dict(state["susceptibility"])
        if "sharpening" in state:
            self._sharpening.load_state_dict(state["sharpening"])
