"""The forecast from the path alone: exact on characteristics, silent where the path does not say."""

import itertools
import json
import math

import pytest
import torch
from scipy.integrate import quad

from shockwatch.shock.trajectory import TrajectoryForecaster


def followed(path, times):
    """Forecast of every snapshot of ``path``: time -> position, or a list of positions."""
    forecaster, found = TrajectoryForecaster(), []
    for before, now in itertools.pairwise(times):
        moved = abs(path(now) - path(before))
        found.append((now, *forecaster.update(training_time=now, before=before, moved=moved)))
    return found


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("end", [1.0, 7.0])
def test_blow_up_is_found(power, end):
    """``ds/dt = -s^2`` makes ``|s| = 1 / (t* - t)``; other powers have the same straight ``1 / rate``."""

    def path(t):
        return quad(lambda x: (1 - x) ** -power, 0, t / end, epsabs=1e-13)[0]

    found = [f for f in followed(path, [end * k / 40 for k in range(33)]) if math.isfinite(f[1])]
    assert len(found) > 20
    for now, remaining, error in found:
        assert remaining == pytest.approx(end - now, rel=0.02)
        assert error < 0.1 * remaining


def test_exponential_growth_and_decay_are_silent():
    times = [k / 5 for k in range(40)]
    assert all(math.isnan(r) for _, r, _ in followed(math.exp, times))
    assert all(math.isnan(r) for _, r, _ in followed(lambda t: math.exp(-t), times))
    assert all(math.isnan(r) for _, r, _ in followed(lambda t: t, times))


def test_noise_is_silent():
    """Diffusion: the speed has no trend."""
    random = torch.Generator().manual_seed(0)
    forecaster, given = TrajectoryForecaster(), 0
    for step in range(2000):
        moved = float(torch.randn(20, generator=random).norm())
        given += math.isfinite(
            forecaster.update(training_time=step + 1.0, before=float(step), moved=moved)[0]
        )
    assert given <= 4


def deep_linear(depth, scale, rate, every, steps):
    """Balanced scalar deep linear net ``a^depth -> 1``; snapshots, and the steepest step."""
    a, forecaster, found, slopes, last = scale, TrajectoryForecaster(), {}, [], scale
    for step in range(steps):
        if step and step % every == 0:
            moved = math.sqrt(depth) * (a - last)
            found[step] = forecaster.update(
                training_time=rate * step, before=rate * (step - every), moved=abs(moved)
            )[0]
            last = a
        slope = a ** (depth - 1) * (1 - a**depth)
        slopes.append(slope)
        a += rate * slope
    return found, slopes.index(max(slopes))


def test_deep_linear_network_of_three_layers():
    found, arrival = deep_linear(3, 0.05, 0.05, 10, 450)
    errors = [
        abs(remaining / 0.05 / (arrival - step) - 1)
        for step, remaining in found.items()
        if step < arrival / 2 and math.isfinite(remaining)
    ]
    assert len(errors) >= 10
    assert max(errors) < 0.15
    assert all(math.isnan(r) for step, r in found.items() if step > arrival + 20)


def test_deep_linear_network_of_two_layers_is_silent_on_its_plateau():
    found, arrival = deep_linear(2, 0.01, 0.02, 10, 400)
    assert all(math.isnan(r) for step, r in found.items() if step < arrival)


def test_broken_clock_and_rest_start_anew():
    forecaster = TrajectoryForecaster()
    for now in range(1, 12):
        given = forecaster.update(training_time=float(now), before=now - 1.0, moved=1.0 / (20 - now))
    assert math.isfinite(given[0])
    assert math.isnan(forecaster.update(training_time=12.0, before=12.0, moved=1.0)[0])
    assert math.isnan(forecaster.update(training_time=13.0, before=12.0, moved=0.0)[0])
    assert math.isnan(forecaster.update(training_time=14.0, before=13.0, moved=1.0)[0])


def test_state_survives_a_checkpoint():
    straight, first = TrajectoryForecaster(), TrajectoryForecaster()
    for now in range(1, 15):
        arguments = {"training_time": float(now), "before": now - 1.0, "moved": 1.0 / (20 - now)}
        second = TrajectoryForecaster()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert repr(second.update(**arguments)) == repr(straight.update(**arguments))
        first = second
