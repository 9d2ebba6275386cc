"""Hopf-Lax against closed forms."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from shockwatch.shock.hopf_lax import evolve, first_shock, fronts, strength, tie_gap

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
    assert shock.time == pytest.approx(1.0, abs=1e-6)
    assert shock.place == pytest.approx(0.0, abs=1e-6)
    moved = first_shock(Q, np.cos(Q) + 0.3 * Q)  # a tilt moves the shock with v = 0.3 for one unit of time
    assert moved.time == pytest.approx(1.0, abs=1e-6)
    assert moved.place == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("time", [1.5, 2.0, 3.0])
def test_cosine_strength(time):
    """At q = 0 the minimisers are +-y with y = tau sin y; the jump of v is 2 y / tau."""
    y = brentq(lambda y: y - time * math.sin(y), 1e-3, math.pi)
    assert strength(Q, np.cos(Q), time) == pytest.approx(2 * y / time, rel=1e-6)
    (front,) = fronts(Q, np.cos(Q), time)
    assert (front.place, front.left, front.right) == pytest.approx((0.0, -y, y), abs=1e-6)
    assert front.speed == pytest.approx(0.0, abs=1e-6)
    assert front.entropy_production == pytest.approx((2 * y / time) ** 3 / 12, rel=1e-6)


@pytest.mark.parametrize("points", [33, 801])
def test_strength_of_a_coarse_slice(points):
    """A probe has 33 points."""
    q = np.linspace(-math.pi, math.pi, points)
    y = brentq(lambda y: y - 2.0 * math.sin(y), 1e-3, math.pi)
    assert strength(q, np.cos(q), 2.0) == pytest.approx(y, rel=1e-3)


def test_no_strength_before_the_shock():
    assert strength(Q, np.cos(Q), 0.8) == 0.0


def lopsided(q):
    """Two unequal humps: the shocks of either change their speed."""
    return np.cos(q) + 0.3 * np.sin(2 * q + 0.4) + 0.1 * q


def test_rankine_hugoniot():
    """The front moves at the mean of the velocities on its sides, also where that changes."""
    wide = np.linspace(-2 * math.pi, 2 * math.pi, 1601)
    for time in (1.2, 2.0, 3.0):
        moved = [fronts(wide, lopsided(wide), time + h) for h in (-0.01, 0.0, 0.01)]
        for before, now, after in zip(*moved, strict=True):
            inside = wide[0] < now.left and now.right < wide[-1]
            if inside:
                assert (after.place - before.place) / 0.02 == pytest.approx(now.speed, rel=0.01)
        assert any(wide[0] < f.left and f.right < wide[-1] for f in moved[1])
    profile = evolve(wide, lopsided(wide), 2.0)
    for front in fronts(wide, lopsided(wide), 2.0):  # the front is where the evolved velocity jumps
        cell = int(np.searchsorted(wide, front.place)) - 1
        if 0 < cell < len(wide) - 3:
            drop = profile.velocity[cell - 1] - profile.velocity[cell + 2]
            assert drop == pytest.approx(front.jump, rel=0.05)


def test_shocks_merge():
    """Three basins of which the middle one is the highest: its two shocks become one when it is swallowed."""
    q = np.linspace(-3.0, 3.0, 601)
    loss = q**2 * (q**2 - 4) ** 2 / 40 + 0.5 * np.exp(-(q**2)) - 0.5
    early, late = fronts(q, loss, 2.0), fronts(q, loss, 4.0)
    assert len(early) == 2
    assert early[0].place == pytest.approx(-early[1].place)
    assert early[0].right <= early[1].left
    (merged,) = late
    assert merged.place == pytest.approx(0.0, abs=1e-6)
    assert merged.right > early[1].left


def test_tie_gap():
    """``L = (y^2 - 1)^2 / 4 + a y``: two basins whose costs differ by ``2 a`` to first order; equal on the ridge."""
    q = np.linspace(-2, 2, 65)
    for tilt in (0.0, 1e-3, 1e-2):
        gap = tie_gap(q, 0.25 * (q**2 - 1) ** 2 + tilt * q, 10.0)
        inner = math.sqrt(1 - 0.1)  # minimisers at y^2 = 1 - 1 / tau
        assert gap == pytest.approx(2 * tilt * inner, rel=1e-3, abs=1e-7)
    (front,) = fronts(q, 0.25 * (q**2 - 1) ** 2 + 0.01 * q, 10.0)
    assert tie_gap(q, 0.25 * (q**2 - 1) ** 2 + 0.01 * q, 10.0, front.place) == pytest.approx(0.0, abs=1e-7)
    assert math.isnan(tie_gap(q, q**2, 1.0))


def test_evolution_never_exceeds_the_loss_and_falls_with_time():
    loss = np.cos(3 * Q) + 0.1 * Q**2
    early, late = evolve(Q, loss, 0.1), evolve(Q, loss, 0.4)
    assert (early.values <= loss + 1e-12).all()
    assert (late.values <= early.values + 1e-12).all()


def test_arguments():
    with pytest.raises(ValueError, match="time"):
        evolve(Q, np.cos(Q), 0.0)
    with pytest.raises(ValueError, match="time=inf"):
        fronts(Q, np.cos(Q), math.inf)
    with pytest.raises(ValueError, match="ascending"):
        evolve(Q[::-1], np.cos(Q), 1.0)
    with pytest.raises(ValueError, match="ascending"):
        first_shock(Q[:3], np.cos(Q[:3]))


@pytest.mark.parametrize("phase", np.linspace(0.0, 3.0, 13))
def test_rounding_does_not_move_the_strength(phase: float) -> None:
    """Nor where a front ends on the border of the slice, or Newton's method stops on the last bit."""
    generator = np.random.default_rng(0)
    q = np.linspace(-1.0, 1.0, 33)
    losses = np.cos(3.0 * q + phase) + 0.1 * q**3
    found = strength(q, losses, 0.25)
    assert found > 0.1
    for _ in range(5):
        rounded = losses * (1.0 + 1e-12 * generator.standard_normal(len(q)))
        assert strength(q, rounded, 0.25) == pytest.approx(found, rel=1e-8)
