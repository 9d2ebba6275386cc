"""Hopf-Lax against closed forms."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from shockwatch.shock.hopf_lax import evolve, first_shock, strength

Q = np.linspace(-math.pi, math.pi, 801)


def test_quadratic():
    h = 1.7
    for time in (0.2, 1.0, 5.0):
        profile = evolve(Q, 0.5 * h * Q**2, time)
        assert profile.values == pytest.approx(0.5 * h * Q**2 / (1 + time * h), abs=1e-9)
        assert profile.velocity == pytest.approx(h * Q / (1 + time * h), abs=1e-9)
    assert first_shock(Q, 0.5 * h * Q**2).time == math.inf
    assert math.isnan(first_shock(Q, 0.5 * h * Q**2).place)
    assert strength(Q, 0.5 * h * Q**2, 3.0) == 0.0


def test_concave_quadratic_before_its_breakdown():
    time = 0.5
    inner = np.abs(Q) < 1.0
    profile = evolve(Q, -0.5 * Q**2, time)
    assert profile.values[inner] == pytest.approx(-0.5 * Q[inner] ** 2 / (1 - time), abs=1e-9)


def test_cosine_shock_time_and_place():
    shock = first_shock(Q, np.cos(Q))
    assert shock.time == pytest.approx(1.0, rel=1e-4)
    assert shock.place == pytest.approx(0.0, abs=0.01)
    moved = first_shock(Q, np.cos(Q) + 0.3 * Q)  # a tilt moves the shock with v = 0.3 for one unit of time
    assert moved.time == pytest.approx(1.0, rel=1e-4)
    assert moved.place == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("time", [1.5, 2.0, 3.0])
def test_cosine_strength(time):
    """At q = 0 the minimisers are +-y with y = tau sin y; the jump of v is 2 y / tau."""
    y = brentq(lambda y: y - time * math.sin(y), 1e-3, math.pi)
    assert strength(Q, np.cos(Q), time) == pytest.approx(2 * y / time, rel=0.02)


def test_no_strength_before_the_shock():
    assert strength(Q, np.cos(Q), 0.8) == 0.0


def test_rankine_hugoniot():
    """Tilted cosine: the shock sits where the two minimisers tie, and moves with the mean velocity."""
    tilt = 0.3
    loss = np.cos(Q) + tilt * Q
    places = []
    for time in (2.0, 2.4):
        velocity = evolve(Q, loss, time).velocity
        inner = np.abs(Q) < 2
        places.append(Q[inner][np.argmin(np.diff(velocity[inner]))])
    assert (places[1] - places[0]) / 0.4 == pytest.approx(tilt, abs=0.03)


def test_evolution_never_exceeds_the_loss_and_falls_with_time():
    loss = np.cos(3 * Q) + 0.1 * Q**2
    early, late = evolve(Q, loss, 0.1), evolve(Q, loss, 0.4)
    assert (early.values <= loss + 1e-12).all()
    assert (late.values <= early.values + 1e-12).all()


def test_arguments():
    with pytest.raises(ValueError, match="time"):
        evolve(Q, np.cos(Q), 0.0)
    with pytest.raises(ValueError, match="ascending"):
        evolve(Q[::-1], np.cos(Q), 1.0)
    with pytest.raises(ValueError, match="ascending"):
        first_shock(Q[:3], np.cos(Q[:3]))
