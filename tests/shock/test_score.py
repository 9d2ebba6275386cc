"""Scores of forecasts, on descents whose steepest points are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from shockwatch.curvature.lanczos import Krylov
from shockwatch.curvature.spectral_measure import SpectralMeasure
from shockwatch.shock.arrival import ArrivalForecaster
from shockwatch.shock.score import ForecastScore
from tests.shock.reduced_cases import crossings, deep_linear, train


def measured(time: float, *modes: tuple[float, float]) -> SpectralMeasure:
    """Of ``sum (s - x^2)^2 / 4`` at ``time``, one coordinate a mode ``(s, event)``: ``x' = x (s - x^2)`` is steepest,
    and its curvature ``3 x^2 - s`` zero, at ``x^2 = s / 3``, which is where ``s / x^2 - 1 = 2 e^(-2 s (t - event))``.
    """
    square = np.array([s / (1.0 + 2.0 * math.exp(-2.0 * s * (time - event))) for s, event in modes])
    height = np.array([s for s, _ in modes])
    order = np.argsort(3.0 * square - height)
    nodes = (3.0 * square - height)[order]
    weights = (square * (height - square) ** 2)[order]
    empty = Krylov(torch.eye(len(nodes)), nodes, np.zeros(len(nodes) - 1), 0.0)
    return SpectralMeasure.of(empty, np.sqrt(weights))


MODES = ((1.0, 20.1), (0.4, 45.3))


def fed(score: ForecastScore, times, forecast, *modes: tuple[float, float]) -> list[float]:
    """Events told."""
    told = [
        score.update(training_time=time, measure=measured(time, *modes), remaining=forecast(time))
        for time in times
    ]
    return [event.time for event in told if event]


def steps(first: float, last: float, width: float = 1.0) -> list[float]:
    return [float(t) for t in np.arange(first, last, width)]


def test_exact_forecasts_score_zero():
    score = ForecastScore()
    assert math.isnan(score.value)
    told = fed(
        score, steps(0, 60), lambda t: 20.1 - t if t < 20 else 45.3 - t if t < 45 else math.nan, *MODES
    )
    assert told == pytest.approx([20.1, 45.3], abs=0.05)
    assert score.value == pytest.approx(0.0, abs=5e-3)


@pytest.mark.parametrize("factor", [0.5, 1.3, 3.0])
def test_score_is_the_relative_error(factor):
    score = ForecastScore()
    fed(score, steps(0, 40), lambda t: factor * (20.1 - t) if t < 15 else math.nan, MODES[0])
    assert score.value == pytest.approx(abs(factor - 1.0), abs=0.02)


def test_an_event_in_the_tail_of_the_one_before():
    """The second peak is a quarter of the first and half a time constant behind: the norm of the gradient has one."""
    modes = ((1.0, 20.0), (0.4, 22.0))
    norms = [math.sqrt(measured(t, *modes).total) for t in steps(0, 60, 0.1)]
    peaks = [b for a, b, c in zip(norms, norms[1:], norms[2:], strict=False) if a < b > c]
    assert len(peaks) == 1
    assert fed(ForecastScore(), steps(0, 60, 0.7), lambda t: math.nan, *modes) == pytest.approx(
        [20.0, 22.0], abs=0.2
    )


def test_forecasts_without_an_event_are_not_scored():
    score = ForecastScore()
    for t in range(100):  # negative curvature that relaxes, and with it its part of the gradient
        nodes, sizes = np.array([-math.exp(-t / 30), 0.5]), np.array([math.exp(-t / 20), 1.0])
        measure = SpectralMeasure.of(Krylov(torch.eye(2), nodes, np.zeros(1), 0.0), sizes)
        assert not score.update(training_time=float(t), measure=measure, remaining=30.0)
    assert math.isnan(score.value)


def test_forecasts_of_the_next_event_wait_for_it():
    score = ForecastScore()
    fed(score, steps(0, 30), lambda t: 45.3 - t, *MODES)
    first = score.value
    assert first > 1.0  # of what came at 20 they were wrong
    fed(score, steps(30, 60), lambda t: 45.3 - t if t < 45 else math.nan, *MODES)
    assert score.value < first


def test_every_transition_of_the_demo_is_scored():
    """Two deep linear layers of width 8 at the demo's spacing of probes in training time: four of four."""
    run = train(*deep_linear(0, 0.01, 8), 0.002, 3000, 50)
    forecaster, score, told = ArrivalForecaster(), ForecastScore(), []
    for step, seen in run.probes.items():
        time = 0.002 * step
        forecast = forecaster.update(seen, step=step, training_time=time)
        event = score.update(training_time=time, measure=seen.gradient_measure, remaining=forecast.remaining)
        if event:
            told.append(event)
    assert [500 * event.time for event in told] == pytest.approx(crossings(run, 1 / 3), abs=25)
    assert all(event.forecasts for event in told)
    assert score.value < 0.05


def test_state_survives_a_checkpoint():
    straight, first = ForecastScore(), ForecastScore()
    for t in range(60):
        arguments = {
            "training_time": float(t),
            "measure": measured(float(t), *MODES),
            "remaining": 18.0 - t % 20,
        }
        second = ForecastScore()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert second.update(**arguments) == straight.update(**arguments)
        assert repr(second.value) == repr(straight.value)
        first = second
    assert not math.isnan(first.value)
    with pytest.raises(ValueError, match="pending"):
        first.load_state_dict({})


def test_a_checkpoint_of_the_first_releases_is_read():
    score = ForecastScore()
    score.load_state_dict({"norms": [[0.0, 1.0]], "pending": [[0.0, 20.1]], "scores": [0.5]})
    assert fed(score, steps(1, 30), lambda t: math.nan, MODES[0]) == pytest.approx([20.1], abs=0.05)
    assert score.value == pytest.approx(0.25, abs=0.01)


def test_a_gradient_of_zero_is_passed_over():
    score = ForecastScore()
    assert not score.update(training_time=1.0, measure=None, remaining=math.nan)
    assert math.isnan(score.value)
