"""Scores of forecasts, on series whose events are known."""

import json
import math

import pytest

from shockwatch.shock.score import ForecastScore


def norm(time: float, *events: float) -> float:
    """A floor and a bump at each event."""
    return 0.1 + sum(1.0 / math.cosh((time - event) / 2.0) for event in events)


def fed(score: ForecastScore, times, forecast, *events: float) -> list[float]:
    """Times at which events were told."""
    return [
        time
        for time in times
        if score.update(training_time=time, gradient_norm=norm(time, *events), remaining=forecast(time))
    ]


def test_exact_forecasts_score_zero():
    score = ForecastScore()
    assert math.isnan(score.value)
    told = fed(score, [float(t) for t in range(60)], lambda t: 20.0 - t if t < 20 else 45.0 - t, 20.0, 45.0)
    assert told == [22.0, 47.0]
    assert score.value == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("factor", [0.5, 1.3, 3.0])
def test_score_is_the_relative_error(factor):
    score = ForecastScore()
    fed(score, [float(t) for t in range(40)], lambda t: factor * (20.0 - t) if t < 20 else math.nan, 20.0)
    assert score.value == pytest.approx(abs(factor - 1.0))


def test_event_between_probes():
    score = ForecastScore()
    fed(score, [0.7 * k for k in range(60)], lambda t: 20.1 - t if t < 15 else math.nan, 20.1)
    assert score.value < 0.01


def test_forecasts_without_an_event_are_not_scored():
    score = ForecastScore()
    for t in range(100):  # a smooth descent, with wiggles below the size of an event
        size = math.exp(-t / 30) * (1 + 0.05 * math.sin(t))
        assert not score.update(training_time=float(t), gradient_norm=size, remaining=30.0)
    assert math.isnan(score.value)


def test_fall_far_below_the_foot_within_one_probe():
    score = ForecastScore()
    for time, size in enumerate([1.0, 0.9, 1.5, 3.0, 0.1]):
        told = score.update(training_time=float(time), gradient_norm=size, remaining=3.0 - time)
    assert told
    assert score.value < 0.2


def test_forecasts_of_the_next_event_wait_for_it():
    score = ForecastScore()
    fed(score, [float(t) for t in range(30)], lambda t: 45.0 - t, 20.0, 45.0)
    first = score.value
    assert first > 1.0  # of what came at 20 they were wrong
    fed(score, [float(t) for t in range(30, 60)], lambda t: 45.0 - t if t < 45 else math.nan, 20.0, 45.0)
    assert score.value < first


def test_state_survives_a_checkpoint():
    straight, first = ForecastScore(), ForecastScore()
    for t in range(60):
        arguments = {
            "training_time": float(t),
            "gradient_norm": norm(t, 20.0, 45.0),
            "remaining": 18.0 - t % 20,
        }
        second = ForecastScore()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert second.update(**arguments) == straight.update(**arguments)
        assert repr(second.value) == repr(straight.value)
        first = second
    with pytest.raises(ValueError, match="pending"):
        first.load_state_dict({})


def test_broken_values_are_passed_over():
    score = ForecastScore()
    for size in (math.nan, 0.0, math.inf):
        assert not score.update(training_time=1.0, gradient_norm=size, remaining=math.nan)
    assert math.isnan(score.value)
