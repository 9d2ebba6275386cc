"""Arrival forecasts on runs whose transitions are known, and silence where there is none."""

import json
import math

import numpy as np
import pytest
import torch

from shockwatch.pace import Pace
from shockwatch.shock.arrival import ArrivalForecaster, Forecast, Sighting, arrival_drift
from shockwatch.shock.indicators import ShockIndicators
from shockwatch.shock.probe import Probe, probe
from tests.shock.reduced_cases import (
    Run,
    TorchReducedLoss,
    classifier,
    crossings,
    deep_linear,
    relu_student,
    train,
)

HORIZON = 200


def forecasts(run: Run) -> dict[int, tuple[Forecast, float]]:
    """Forecast, in steps, and proximity, by step."""
    forecaster, indicators = ArrivalForecaster(), ShockIndicators(HORIZON)
    found = {}
    for step, seen in run.probes.items():
        time = step * run.learning_rate
        forecast = forecaster.update(seen, step=step, training_time=time)
        values, _ = indicators.update(
            seen, step=step, training_time=time, time_per_step=run.learning_rate, viscosity=math.nan
        )
        found[step] = (forecast, values["shock/proximity"])
    return found


@pytest.fixture(scope="module", params=[(20, 0.02, 0.0), (22, 0.01, 0.0), (21, 0.02, 0.02)], ids=str)
def deep_linear_run(request) -> Run:
    seed, scale, noise = request.param
    return train(*deep_linear(seed, scale), 0.02, 1400, 20, noise)


def test_deep_linear_transitions_are_forecast(deep_linear_run):
    """Arrival is the steepest point of the loss: a third of each singular value (``x^2 = s / 3``)."""
    run = deep_linear_run
    steepest = crossings(run, 1 / 3)
    errors, covered = [], []
    for step, (forecast, _) in forecasts(run).items():
        ahead = [s - step for s in steepest if s >= step]
        if ahead and min(ahead) >= 60 and math.isfinite(forecast.remaining):
            errors.append(abs(forecast.remaining / run.learning_rate / min(ahead) - 1))
            covered.append(errors[-1] * min(ahead) <= forecast.error / run.learning_rate)
    assert len(errors) >= 4
    assert np.median(errors) < 0.05
    assert np.mean(covered) >= 0.6


def test_deep_linear_proximity_alerts_before_and_not_after(deep_linear_run):
    run = deep_linear_run
    found = forecasts(run)
    last = 0
    for arrival in sorted(crossings(run, 1 / 3)):
        before = [p for step, (_, p) in found.items() if last <= step <= arrival]
        if len(before) >= 3:  # transitions closer than that cannot be told apart at this spacing
            assert max(before) >= 1.0, arrival
        last = arrival
    after = [(f, p) for step, (f, p) in found.items() if step > max(crossings(run, 0.5))]
    assert len(after) > 20
    assert all(math.isnan(f.remaining) and p == 0.0 for f, p in after)


@pytest.fixture(scope="module")
def relu_run() -> Run:
    return train(*relu_student(101), 0.02, 1000, 20)


def test_relu_student_has_one_transition(relu_run):
    found = forecasts(relu_run)
    transition = int(np.argmax(-np.diff(relu_run.losses)))
    ahead = [
        (forecast.remaining / 0.02) / (transition - step)
        for step, (forecast, _) in found.items()
        if step < transition - 20 and forecast.evidence > 0.0
    ]
    assert len(ahead) >= 3
    assert abs(np.median(ahead) - 1) < 0.35  # theory.md 5: 151 for 140, 173 for 148 at step 0
    assert max(p for step, (_, p) in found.items() if step < transition) >= 1.0
    later = [(f, p) for step, (f, p) in found.items() if step > transition + 40]
    assert np.mean([math.isnan(f.remaining) for f, _ in later]) >= 0.95
    assert np.mean([p < 0.5 for _, p in later]) >= 0.95


def test_negative_curvature_alone_is_not_a_shock(relu_run):
    """The bare ``tau*`` would cry wolf in those very probes."""
    bare = [p for step, p in relu_run.probes.items() if step > 300]
    assert np.mean([p.unstable for p in bare]) > 0.5


def test_convex_is_silent():
    run = train(*classifier(1, 0), 0.1, 600, 30)
    for forecast, proximity in forecasts(run).values():
        assert math.isnan(forecast.remaining)
        assert forecast.reason
        assert proximity == 0.0


def test_smooth_network_is_silent():
    run = train(*classifier(2, 12), 0.1, 1200, 40)
    assert all(p < 0.5 for step, (_, p) in forecasts(run).items() if step > 100)


def cosine(start: float) -> Probe:
    """``L = 2 + cos x`` (and a bowl in y): steepest at pi / 2, ``-ln tan(start / 2)`` ahead."""
    point = torch.tensor([start, 1e-3], dtype=torch.float64)
    return probe(
        TorchReducedLoss(lambda z: 2 + torch.cos(z[0]) + z[1] ** 2, point),
        None,
        torch.Generator().manual_seed(0),
    )


def test_a_slope_is_no_plateau():
    """From 0.5 an e-folding and a third is ahead, from 1 a third of one: the run is on its way down already."""
    near, far = ArrivalForecaster(), ArrivalForecaster()
    for time, (plateau, slope) in enumerate([(0.5, 1.0), (0.55, 1.05)]):
        held = far.update(cosine(plateau), step=time, training_time=0.1 * time)
        gone = near.update(cosine(slope), step=time, training_time=0.1 * time)
    assert held.remaining == pytest.approx(-math.log(math.tan(0.275)), rel=0.02)
    assert math.isnan(gone.remaining)
    assert "slope" in gone.reason


def test_an_arrival_that_came_due_and_is_near_once_more():
    forecaster = ArrivalForecaster()
    seen = cosine(0.2)
    told = [forecaster.update(seen, step=k, training_time=2.4 * k) for k in range(4)]
    assert math.isfinite(told[0].remaining)
    assert all("once more" in forecast.reason for forecast in told[1:])


def test_the_steps_of_the_optimiser_are_counted():
    """Momentum 0.9 needs longer than the flow, and says how well it knows by how much."""
    flow = ArrivalForecaster().update(cosine(0.05), step=0, training_time=0.0)
    heavy = ArrivalForecaster().update(cosine(0.05), step=0, training_time=0.0, pace=Pace(0.01, 0.9))
    assert heavy.remaining > 1.3 * flow.remaining
    assert heavy.error > flow.error


def sightings(remaining: list[float], spacing: float = 1.0) -> list[Sighting]:
    return [Sighting(i, i * spacing, left, -1.0, 0.5) for i, left in enumerate(remaining)]


def test_drift_of_a_countdown_and_of_a_receding_arrival():
    assert arrival_drift(sightings([10.0, 9.0, 8.0, 7.0])) == pytest.approx((0.0, 0.0, 0.0))
    assert arrival_drift(sightings([10.0, 10.0, 10.0, 10.0]))[0] == pytest.approx(1.0)
    slope, error, scatter = arrival_drift(sightings([10.0, 9.0, 3.0, 7.0, 6.0]))  # one outlier
    assert abs(slope) < 0.3
    assert math.isnan(arrival_drift(sightings([10.0, 9.0]))[1])
    assert error >= 0.0
    assert scatter >= 0.0
    with pytest.raises(ValueError, match="at least 2"):
        arrival_drift(sightings([1.0]))


def test_first_probe_has_a_forecast_but_no_evidence():
    run = train(*deep_linear(20, 0.02), 0.02, 0, 20)
    ((forecast, proximity),) = forecasts(run).values()
    assert math.isfinite(forecast.remaining)
    # nothing says how the arrival drifts: the largest drift let pass, for one e-folding
    assert forecast.error == pytest.approx(-0.5 / run.probes[0].curvature, rel=0.05)
    assert (forecast.evidence, proximity) == (0.0, 0.0)


def test_state_survives_a_checkpoint(deep_linear_run):
    run = deep_linear_run
    straight, first, second = ArrivalForecaster(), ArrivalForecaster(), ArrivalForecaster()
    for step, seen in list(run.probes.items())[:12]:
        time = step * run.learning_rate
        expected = straight.update(seen, step=step, training_time=time)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert repr(second.update(seen, step=step, training_time=time)) == repr(expected)
        first.load_state_dict(second.state_dict())
    with pytest.raises(ValueError, match="sightings"):
        first.load_state_dict({"probes": 1})
