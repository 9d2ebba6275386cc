"""Slices and the time along them, against exact solutions."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from shockwatch.pace import Pace
from shockwatch.shock.slice import take_slice, time_to_steepest


@pytest.mark.parametrize("start", [1e-6, 1e-3, 0.05])
@pytest.mark.parametrize("target", [0.5, 4.0])
def test_quartic_saddle_exact_time(start, target):
    """``L = (target - x^2)^2 / 4``, x' = x (target - x^2); steepest at x^2 = target / 3. Bernoulli's equation:
    ``target / x^2 - 1`` decays as exp(-2 target t)."""
    found = take_slice(
        lambda s: (target - (start + s) ** 2) ** 2 / 4,
        -start * (target - start**2),
        -target + 3 * start**2,
    )
    assert found is not None
    assert found.bracketed
    time, place = time_to_steepest(found)
    exact = math.log((target / start**2 - 1) / (3 - 1)) / (2 * target)
    assert time == pytest.approx(exact, rel=0.002, abs=0.002 / target)
    assert place + start == pytest.approx(math.sqrt(target / 3), rel=0.02)
    assert found.relative_drop == pytest.approx(1.0, abs=0.05)


def test_cosine_against_an_ode_solver():
    """``L = cos x``: x' = sin x, steepest at pi / 2."""
    start = 0.01
    found = take_slice(lambda s: 2 + math.cos(start + s), -math.sin(start), -math.cos(start))
    arrived = lambda t, x: x[0] - math.pi / 2  # noqa: E731
    arrived.terminal = True
    solved = solve_ivp(lambda t, x: np.sin(x), (0, 50), [start], events=arrived, rtol=1e-10, atol=1e-12)
    assert time_to_steepest(found)[0] == pytest.approx(float(solved.t_events[0][0]), rel=1e-3)


@pytest.mark.parametrize(
    "pace", [Pace(0.01), Pace(0.001, 0.9), Pace(0.01, 0.9), Pace(0.01, 0.9, True), Pace(0.05, 0.5)], ids=str
)
def test_arrival_of_the_optimiser(pace):
    """Steps that SGD takes from a plateau of ``-x^2 / 2 + x^4 / 4`` to its steepest point, half of the way before it.

    The flow alone is up to 37 % early with momentum."""
    x, velocity, path = 1e-6, 0.0, []
    while x < math.sqrt(1 / 3):
        path.append(x)
        slope = x**3 - x
        velocity = pace.momentum * velocity + slope
        x -= pace.rate * (slope + pace.momentum * velocity if pace.nesterov else velocity)
    half = len(path) // 2
    start = path[half]
    found = take_slice(
        lambda s: 1 - (start + s) ** 2 / 2 + (start + s) ** 4 / 4, start**3 - start, 3 * start**2 - 1
    )
    steps = time_to_steepest(found, pace)[0] / pace.time_per_step
    assert steps == pytest.approx(len(path) - half, rel=0.01)


def test_single_precision_noise_of_the_loss_does_not_matter():
    start, target = 1e-5, 2.0
    found = take_slice(
        lambda s: float(np.float32(10 + (target - (start + s) ** 2) ** 2 / 4)),
        -start * (target - start**2),
        -target,
    )
    exact = math.log((target / start**2 - 1) / 2) / (2 * target)
    assert time_to_steepest(found)[0] == pytest.approx(exact, rel=0.01)


def test_units_scale():
    """Stretching length by a and the loss by b divides time by b / a^2: the slice has no scale of its own."""
    plain = take_slice(lambda s: 2 + math.cos(0.1 + s), -math.sin(0.1), -math.cos(0.1))
    a, b = 1e-3, 1e4
    scaled = take_slice(
        lambda s: b * (2 + math.cos(0.1 + s / a)), -b / a * math.sin(0.1), -b / a**2 * math.cos(0.1)
    )
    assert time_to_steepest(scaled)[0] * b / a**2 == pytest.approx(time_to_steepest(plain)[0], rel=1e-6)


def test_where_there_is_no_answer():
    assert take_slice(lambda s: 1 + 1e3 * abs(s), -1e-3, -1e-3) is None  # turns up at once
    assert take_slice(lambda s: 1.0 if s == 0 else math.nan, -1.0, -1.0) is None
    endless = take_slice(lambda s: 1 - s - s**2, -1.0, -2.0)  # steeper for ever
    assert endless is not None
    assert not endless.bracketed
    assert math.isnan(time_to_steepest(endless)[0])
    top = take_slice(lambda s: 2 + math.cos(s), 0.0, -1.0)  # on the ridge: it never leaves
    assert math.isnan(time_to_steepest(top)[0])
    with pytest.raises(ValueError, match="slope"):
        take_slice(lambda s: s, 1.0, -1.0)
