"""Spectral measure against dense algebra."""

import math

import numpy as np
import pytest
import torch

from shockwatch.curvature.spectral_measure import local_entropy_gap, random_measure, spectral_measure

DOUBLE = torch.float64
N = 60


@pytest.fixture
def matrix() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(N, N, generator=g, dtype=DOUBLE))
    return basis @ torch.diag(torch.linspace(-1, 6, N, dtype=DOUBLE)) @ basis.T


@pytest.fixture
def gradient() -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def test_moments_and_rate(matrix, gradient):
    measure = spectral_measure(lambda v: matrix @ v, gradient, 8)
    vector = gradient.clone()
    for power in range(15):  # Gauss quadrature: exact up to degree 2 m - 1 = 15
        moment = float(measure.weights @ measure.nodes**power)
        assert moment == pytest.approx(float(gradient @ vector), rel=1e-9), power
        vector = matrix @ vector
    assert measure.total == pytest.approx(float(gradient @ gradient))
    assert measure.rate == pytest.approx(float(gradient @ matrix @ gradient / (gradient @ gradient)))


def test_functions_of_the_operator(matrix, gradient):
    measure = spectral_measure(lambda v: matrix @ v, gradient, 30)
    values, vectors = torch.linalg.eigh(matrix)
    weights = (vectors.T @ gradient) ** 2
    for time in (0.1, 0.5, 0.9):
        resolvent = float((weights / (1 + time * values)).sum())
        assert measure.resolvent(time) == pytest.approx(resolvent, rel=1e-3)
        assert measure.response(time) == pytest.approx(
            float((weights * torch.exp(-2 * time * values)).sum()), rel=1e-3
        )
    negative = float(weights[values < 0].sum() / weights.sum())
    assert measure.unstable_share == pytest.approx(
        negative, abs=0.05
    )  # a step function: only to the node spacing


def test_ritz_vectors(matrix, gradient):
    measure = spectral_measure(lambda v: matrix @ v, gradient, 10)
    for index in (0, 4, 9):
        vector = measure.vector(index)
        assert float(vector.norm()) == pytest.approx(1.0)
        assert float(vector @ matrix @ vector) == pytest.approx(float(measure.nodes[index]), abs=1e-10)
        assert float(gradient @ vector) == pytest.approx(math.sqrt(measure.weights[index]), rel=1e-8)
        residual = float((matrix @ vector - measure.nodes[index] * vector).norm())
        assert residual == pytest.approx(float(measure.residuals[index]), abs=1e-10)


def test_breakdown_is_nan(matrix, gradient):
    measure = spectral_measure(lambda v: matrix @ v, gradient, 30)
    breakdown = -1.0 / float(measure.nodes[0])
    assert math.isfinite(measure.resolvent(0.999 * breakdown))
    for time in (1.000001 * breakdown, 1.5 * breakdown, 10.0):
        assert math.isnan(measure.resolvent(time))
        assert math.isnan(measure.log_determinant(time))
        assert math.isnan(local_entropy_gap(measure, measure, time, 0.1))


def test_lead_time_closed_form():
    """One decaying and one growing mode: w_- e^{2 a t} = w_+ e^{-2 b t}."""
    values = torch.tensor([-0.5, 2.0], dtype=DOUBLE)
    gradient = torch.tensor([0.1, 1.0], dtype=DOUBLE)
    measure = spectral_measure(lambda v: values * v, gradient, 2)
    assert measure.lead_time(100.0) == pytest.approx(math.log(100) / 5.0, rel=1e-9)
    assert measure.lead_time(0.5) == math.inf
    assert math.isfinite(measure.response(1e9))


def test_convex_never_leads(gradient):
    values = torch.linspace(0.1, 2, N, dtype=DOUBLE)
    measure = spectral_measure(lambda v: values * v, gradient, 12)
    assert measure.unstable_share == 0.0
    assert measure.lead_time(1e6) == math.inf


def test_local_entropy_of_a_quadratic(matrix):
    """Exact formula by dense algebra; the determinant by the mean over many random starts."""
    q = torch.randn(N, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    time, viscosity = 0.3, 0.7
    resolvent = torch.linalg.inv(torch.eye(N, dtype=DOUBLE) + time * matrix)
    loss = 0.5 * q @ matrix @ q
    smoothed = 0.5 * q @ matrix @ resolvent @ q - viscosity * torch.logdet(resolvent)
    measure = spectral_measure(lambda v: matrix @ v, matrix @ q, 30)
    generator = torch.Generator().manual_seed(3)
    gaps = []
    for _ in range(300):
        noise = random_measure(lambda v: matrix @ v, q, 8, project=lambda v: v, generator=generator)
        gaps.append(local_entropy_gap(measure, noise, time, viscosity))
    error = np.std(gaps) / math.sqrt(len(gaps))
    assert np.mean(gaps) == pytest.approx(float(smoothed - loss), abs=4 * error)
    assert math.isnan(local_entropy_gap(measure, measure, time, math.nan))
    assert math.isnan(local_entropy_gap(measure, measure, 0.0, 1.0))


def test_random_measure_counts_horizontal_dimensions():
    keep = torch.cat([torch.ones(400), torch.zeros(600)]).to(DOUBLE)
    noise = random_measure(
        lambda v: keep * v, keep, 8, project=lambda v: keep * v, generator=torch.Generator().manual_seed(0)
    )
    assert noise.total == pytest.approx(400, rel=0.25)  # chi squared: 7 % standard deviation
    assert noise.nodes == pytest.approx([1.0])
