"""Local entropy in 50 dimensions against its closed form, Laplace against Monte Carlo, and where neither holds."""

import math

import pytest
import torch

from shockwatch.curvature import random_measure, spectral_measure
from shockwatch.shock.local_entropy import laplace, monte_carlo
from tests.shock.reduced_cases import TorchReducedLoss, classifier

DIM = 50


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(lowest: float) -> tuple[TorchReducedLoss, torch.Tensor, torch.Tensor]:
    """``q^T H q / 2`` with eigenvalues from ``lowest`` to 3, its ``H`` and its point."""
    rotation, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator(1), dtype=torch.float64))
    dense = rotation @ torch.diag(torch.linspace(lowest, 3.0, DIM, dtype=torch.float64)) @ rotation.T
    point = 0.3 * torch.randn(DIM, generator=generator(2), dtype=torch.float64)
    return TorchReducedLoss(lambda x: 0.5 * x @ dense @ x, point), dense, point


def closed_form(dense, point, time, viscosity):
    factors = torch.eye(DIM, dtype=torch.float64) + time * dense
    slope = torch.linalg.solve(factors, dense @ point)
    return float(0.5 * point @ slope + viscosity * torch.logdet(factors)), slope


def measures(reduced, products: int, draws: int):
    gradient = spectral_measure(reduced.hvp, reduced.gradient(), products, project=reduced.project)
    random = generator(3)
    traces = [
        random_measure(reduced.hvp, reduced.gradient(), products, project=reduced.project, generator=random)
        for _ in range(draws)
    ]
    return gradient, traces


@pytest.mark.parametrize("lowest", [0.1, -1.0])
def test_laplace_against_the_closed_form(lowest):
    """One Lanczos run over the whole space answers for every ``tau`` before the breakdown at 1."""
    reduced, dense, point = quadratic(lowest)
    gradient, _ = measures(reduced, DIM, 0)
    spent = reduced.products
    for time in (0.05, 0.3, 0.9):
        found = laplace(gradient, (), time, 0.02, reduced)
        value, slope = closed_form(dense, point, time, 0.02)
        assert found.valid, found.reason
        assert reduced.loss() + found.gap == pytest.approx(value, abs=1e-6, rel=1e-6)
        assert float((found.gradient - slope).norm()) < 1e-6 * float(slope.norm())
    assert reduced.products == spent


def test_laplace_with_few_products():
    """What a probe affords: the gradient to 1e-6, the determinant within its own error."""
    reduced, dense, point = quadratic(-1.0)
    gradient, traces = measures(reduced, 16, 12)
    found = laplace(gradient, traces, 0.4, 0.02, reduced)
    value, slope = closed_form(dense, point, 0.4, 0.02)
    assert float((found.gradient - slope).norm()) < 1e-6 * float(slope.norm())
    assert float((found.gradient - slope).norm()) <= 1.01 * found.gradient_error + 1e-12
    assert 0.0 < found.gap_error < 0.05
    assert abs(reduced.loss() + found.gap - value) < 3.0 * found.gap_error


@pytest.mark.parametrize("lowest", [0.1, -1.0])
def test_monte_carlo_against_the_closed_form(lowest):
    reduced, dense, point = quadratic(lowest)
    scores, slopes = [], []
    for seed in range(5):
        found = monte_carlo(reduced, 0.05, 0.5, generator(seed), 400)
        value, slope = closed_form(dense, point, 0.05, 0.5)
        assert found.valid, found.reason
        scores.append((reduced.loss() + found.gap - value) / found.gap_error)
        slopes.append(float((found.gradient - slope).norm()) / found.gradient_error)
    assert max(map(abs, scores)) < 3.0
    assert max(slopes) < 3.0
    assert max(map(abs, scores)) > 0.1  # the error is no mere upper bound
    assert min(slopes) > 0.3


def test_both_forms_agree_on_a_network():
    function, point = classifier(3, 8)
    reduced = TorchReducedLoss(function, point)
    gradient, traces = measures(reduced, 24, 8)
    for time in (0.005, 0.02):
        exact = laplace(gradient, traces, time, 0.01, reduced)
        sampled = monte_carlo(reduced, time, 0.01, generator(5), 400)
        assert exact.valid
        assert sampled.valid
        assert abs(exact.gap - sampled.gap) < 3.0 * math.hypot(exact.gap_error, sampled.gap_error) + 1e-4
        between = float((exact.gradient - sampled.gradient).norm())
        assert between < 3.0 * math.hypot(exact.gradient_error, sampled.gradient_error)


def test_each_says_when_it_is_not_valid():
    reduced, *_ = quadratic(-1.0)
    gradient, traces = measures(reduced, DIM, 1)
    assert "breakdown" in laplace(gradient, traces, 1.01, 0.02).reason
    collapsed = monte_carlo(reduced, 0.9, 1e-5, generator(), 200)
    assert "effective samples of 200" in collapsed.reason
    assert math.isnan(collapsed.gap)
    assert collapsed.gradient is None
    steep = TorchReducedLoss(lambda x: (1e3 * x).exp().sum(), torch.ones(9, dtype=torch.float64))
    assert "not finite" in monte_carlo(steep, 1.0, 1.0, generator(), 20).reason
    assert "not resolved" in laplace(measures(reduced, 3, 0)[0], traces, 0.9, 0.02).reason
    # the gap is quadratic in what is missing of its gradient
    full = laplace(gradient, traces, 0.9, 0.0)
    for products in (4, 5, 6, 8):
        short = laplace(measures(reduced, products, 0)[0], traces, 0.9, 0.0)
        assert short.gradient is None
        assert 0.0 < abs(short.gap - full.gap) <= short.gap_error
    wells = TorchReducedLoss(
        lambda x: 0.25 * (x**2 - 1).square().sum(), torch.full((9,), 0.3, dtype=torch.float64)
    )
    own, noise = measures(wells, 9, 2)
    assert laplace(own, noise, 0.02, 1e-4, wells).valid
    assert "quadratic model" in laplace(own, noise, 1.0, 1e-6, wells).reason  # the centre is too far
    assert "quadratic model" in laplace(own, noise, 0.02, 50.0, wells).reason  # the neighbourhood is too wide


def test_monte_carlo_stays_horizontal():
    keep = torch.diag(torch.cat([torch.ones(20), torch.zeros(10)]).double())
    reduced = TorchReducedLoss(
        lambda x: 0.5 * (x[:20] ** 2).sum() + 1e6 * (x[20:] - 1).square().sum(),
        torch.ones(30, dtype=torch.float64),
        keep,
    )
    found = monte_carlo(reduced, 0.2, 0.5, generator(), 200)
    assert found.valid
    assert float(found.gradient[20:].abs().max()) == 0.0


def test_arguments():
    reduced, *_ = quadratic(0.1)
    gradient, traces = measures(reduced, 4, 1)
    with pytest.raises(ValueError, match="traces"):
        laplace(gradient, (), 0.1, 0.1)
    with pytest.raises(ValueError, match="time=0"):
        laplace(gradient, traces, 0.0, 0.1)
    with pytest.raises(ValueError, match="viscosity=0"):
        monte_carlo(reduced, 1.0, 0.0, generator())
    with pytest.raises(ValueError, match="samples=0"):
        monte_carlo(reduced, 1.0, 1.0, generator(), 0)
