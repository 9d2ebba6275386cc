"""Susceptibility against the exact answer of an Ornstein-Uhlenbeck process."""

import math

import numpy as np
import pytest

from shockwatch.phase.susceptibility import Susceptibility


@pytest.mark.parametrize("stiffness", [0.05, 0.2, 1.0])
def test_it_is_the_relaxation_time(stiffness):
    rng, noise, window = np.random.default_rng(0), 0.3, 20_000
    decay = math.exp(-stiffness)  # exact step of dx = -k x dt + sqrt(2 nu) dW over unit time
    kick = math.sqrt(noise / stiffness * (1 - decay**2))
    x, susceptibility, last = 0.0, Susceptibility(window), math.nan
    samples = []
    for _ in range(window):
        x = decay * x + kick * rng.standard_normal()
        samples.append(x)
    for i in range(window - 3, window):
        last = susceptibility.update(float(i), samples[i], noise)
    assert math.isfinite(last)
    susceptibility.load_state_dict({"seen": [[float(i), s, noise] for i, s in enumerate(samples)]})
    # relative error of the variance of n correlated samples: sqrt(2 / (n k / 2)) is 6 % at the smallest k
    assert susceptibility.update(float(window), 0.0, noise) == pytest.approx(1 / stiffness, rel=0.2)


def test_unknown_viscosity_says_nothing():
    susceptibility = Susceptibility(8)
    assert all(math.isnan(susceptibility.update(float(i), 1.0, math.nan)) for i in range(5))
    assert all(math.isnan(susceptibility.update(5.0 + i, 1.0, 0.0)) for i in range(5))
    for i in range(20):
        susceptibility.update(10.0 + i, float(i % 2), 0.5)
    assert len(susceptibility.state_dict()["seen"]) == 8
