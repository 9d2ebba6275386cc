"""Cole-Hopf against an independent finite-volume solution, closed forms and conservation laws."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp, trapezoid
from scipy.interpolate import CubicSpline

from shockwatch.shock.cole_hopf import evolve_viscous
from shockwatch.shock.hopf_lax import evolve, fronts

WIDE = np.linspace(-2.5 * math.pi, 2.5 * math.pi, 501)
CELLS = 600


def cosine(q):
    return np.cos(q)


def lopsided(q):
    return np.cos(q) + 0.3 * np.sin(2 * q + 0.4)


def finite_volume(loss, times, viscosity):
    """Cell means of the periodic viscous Burgers equation: MUSCL, Godunov flux, central diffusion, by lines."""
    edges = np.linspace(-math.pi, math.pi, CELLS + 1)
    width = edges[1] - edges[0]
    start = np.diff(loss(edges)) / width  # exact cell means of dL/dq

    def change(_, v):
        back, ahead = v - np.roll(v, 1), np.roll(v, -1) - v
        bend = np.where(back * ahead > 0, 2 * back * ahead / np.where(back * ahead > 0, back + ahead, 1), 0)
        left, right = v + bend / 2, np.roll(v - bend / 2, -1)  # the two sides of each cell's right edge
        flux = 0.5 * np.maximum(np.maximum(left, 0) ** 2, np.minimum(right, 0) ** 2)
        flux = flux - viscosity * ahead / width
        return -(flux - np.roll(flux, 1)) / width

    solved = solve_ivp(change, (0, times[-1]), start, "RK23", t_eval=times, rtol=1e-6, atol=1e-8)
    return 0.5 * (edges[1:] + edges[:-1]), solved.y.T


@pytest.mark.parametrize(("loss", "viscosity"), [(cosine, 0.05), (lopsided, 0.1)])
def test_profiles_against_finite_volumes(loss, viscosity):
    times = [0.5, 0.9, 1.5, 2.5]  # the shock of the cosine forms at 1
    centres, expected = finite_volume(loss, times, viscosity)
    for time, reference in zip(times, expected, strict=True):
        profile = evolve_viscous(WIDE, loss(WIDE), time, viscosity)
        assert profile.viscous
        assert profile.determined[np.abs(WIDE) < math.pi].all()
        found = CubicSpline(WIDE, profile.velocity)(centres)
        assert np.abs(found - reference).mean() < 1e-3 * np.abs(reference).mean()


def test_quadratic():
    h, time, viscosity = 1.7, 0.8, 0.02
    q = np.linspace(-4, 4, 201)
    profile = evolve_viscous(q, 0.5 * h * q**2, time, viscosity)
    inner = profile.determined
    assert inner[np.abs(q) < 2].all()
    concave = evolve_viscous(q, -0.5 * h * q**2, time, viscosity)  # past its breakdown all comes from outside
    assert not concave.determined.any()
    exact = 0.5 * h * q**2 / (1 + time * h) + viscosity * math.log(1 + time * h)
    assert profile.values[inner] == pytest.approx(exact[inner], abs=1e-9)
    assert profile.velocity[inner] == pytest.approx((h * q / (1 + time * h))[inner], abs=1e-9)
    assert profile.steepness[inner] == pytest.approx(h / (1 + time * h), abs=1e-7)


def test_equation_is_satisfied():
    """``dU/dtau + v^2 / 2 = nu dv/dq`` by central differences in time."""
    time, viscosity, h = 1.4, 0.05, 1e-4
    early, now, late = (evolve_viscous(WIDE, lopsided(WIDE), time + d, viscosity) for d in (-h, 0, h))
    inner = now.determined
    change = (late.values - early.values) / (2 * h)
    residual = change + now.velocity**2 / 2 - viscosity * now.steepness
    assert np.abs(residual[inner]).max() < 1e-5
    slopes = CubicSpline(WIDE, now.values).derivative()(WIDE)
    assert slopes[inner][5:-5] == pytest.approx(now.velocity[inner][5:-5], abs=1e-3)


@pytest.mark.parametrize("time", [0.7, 2.0])
def test_energy_is_lost_by_viscosity_alone(time):
    """Over one period ``d/dtau int v^2 / 2 = -nu int (dv/dq)^2``."""
    viscosity, h = 0.05, 1e-3
    period = np.abs(WIDE) <= math.pi + 1e-9

    def energy(at):
        v = evolve_viscous(WIDE, lopsided(WIDE), at, viscosity).velocity[period]
        return 0.5 * trapezoid(v**2, WIDE[period])

    steepness = evolve_viscous(WIDE, lopsided(WIDE), time, viscosity).steepness[period]
    lost = viscosity * trapezoid(steepness**2, WIDE[period])
    assert (energy(time + h) - energy(time - h)) / (2 * h) == pytest.approx(-lost, rel=1e-4)


def test_dissipation_tends_to_the_entropy_production_of_the_shock():
    """Outside the front ``nu int (dv/dq)^2`` vanishes with the viscosity, inside it stays ``jump^3 / 12``."""
    time = 2.5
    q = np.linspace(-3.2, 3.2, 801)
    (front,) = fronts(q, cosine(q), time)
    missing = []
    for viscosity in (0.04, 0.02, 0.01):
        profile = evolve_viscous(q, cosine(q), time, viscosity)
        lost = profile.dissipation(viscosity)
        smooth = viscosity * trapezoid(evolve(q, cosine(q), time).velocity * 0 + (1 / time) ** 2, q)
        assert smooth < 0.2 * lost  # the fan outside rises by at most 1 / tau
        missing.append(abs(lost / front.entropy_production - 1))
    assert missing[2] < 0.04
    assert missing[0] / missing[2] == pytest.approx(4, rel=0.2)  # first order in the viscosity


def test_inviscid_limit():
    inviscid = evolve(WIDE, lopsided(WIDE), 1.5)
    inner = np.abs(WIDE) < 3.0
    unresolved = evolve_viscous(WIDE, lopsided(WIDE), 1.5, 1e-9)
    assert not unresolved.viscous
    assert unresolved.values[inner] == pytest.approx(inviscid.values[inner])
    errors = []
    for viscosity in (4e-3, 1e-3):
        close = evolve_viscous(WIDE, lopsided(WIDE), 1.5, viscosity)
        assert close.viscous
        errors.append(np.abs(close.values - inviscid.values)[inner].max())
    assert errors[1] < errors[0] / 2  # first order in the viscosity, up to a logarithm


def test_constants_and_tilts():
    """A constant moves ``U`` alone; a tilt ``p`` moves the frame with velocity ``p`` (Galilei)."""
    time, viscosity, tilt = 1.2, 0.05, 0.25
    plain = evolve_viscous(WIDE, cosine(WIDE), time, viscosity)
    raised = evolve_viscous(WIDE, cosine(WIDE) + 3e4, time, viscosity)
    assert raised.values - 3e4 == pytest.approx(plain.values, abs=1e-6)
    tilted = evolve_viscous(WIDE, cosine(WIDE) + tilt * WIDE, time, viscosity)
    inner = np.abs(WIDE) < 4
    moved = CubicSpline(WIDE, plain.velocity)(WIDE[inner] - tilt * time) + tilt
    assert tilted.velocity[inner] == pytest.approx(moved, abs=1e-3)


def test_arguments():
    with pytest.raises(ValueError, match="time=0"):
        evolve_viscous(WIDE, cosine(WIDE), 0.0, 0.1)
    with pytest.raises(ValueError, match="viscosity=-1"):
        evolve_viscous(WIDE, cosine(WIDE), 1.0, -1.0)
    with pytest.raises(ValueError, match="ascending"):
        evolve_viscous(WIDE[::-1], cosine(WIDE), 1.0, 0.1)
