"""Probes against dense algebra."""

import math

import pytest
import torch
from torch.func import grad, hessian

from shockwatch.shock.probe import probe
from tests.shock.reduced_cases import TorchReducedLoss, classifier, deep_linear


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[deep_linear(0, 0.3), classifier(0, 8)], ids=["deep linear", "tanh"])
def case(request):
    return request.param


def test_against_the_dense_hessian(case):
    function, point = case
    dense = hessian(function)(point)
    values = torch.linalg.eigvalsh(dense)
    found = probe(TorchReducedLoss(function, point), None, generator())
    assert found.lambda_min == pytest.approx(float(values[0]), rel=0.05)
    assert found.lambda_max == pytest.approx(float(values[-1]), rel=0.05)
    tight = probe(TorchReducedLoss(function, point), None, generator(), tolerance=1e-9)
    assert tight.lambda_min == pytest.approx(float(values[0]), rel=1e-8)
    assert tight.lambda_max == pytest.approx(float(values[-1]), rel=1e-8)
    slope = grad(function)(point)
    assert found.gradient_norm == pytest.approx(float(slope.norm()))
    assert found.gradient_measure.rate == pytest.approx(float(slope @ dense @ slope / (slope @ slope)))
    u = found.direction
    assert float(u @ dense @ u) == pytest.approx(found.curvature, abs=1e-8)
    assert float(u @ slope) == pytest.approx(found.slope, abs=1e-10)
    assert found.slope <= 0.0
    assert found.share == pytest.approx((found.slope / found.gradient_norm) ** 2)
    assert found.lambda_min <= found.curvature + 1e-12
    middle = len(found.slice.positions) // 2
    assert found.slice.losses[middle] == found.loss == pytest.approx(float(function(point)))
    assert found.slice.losses[-1] == pytest.approx(float(function(point + found.slice.reach * u)))


def test_products_are_counted_and_few(case):
    function, point = case
    reduced = TorchReducedLoss(function, point)
    found = probe(reduced, None, generator())
    assert found.products == reduced.products
    warm = probe(reduced, found.recycled, generator(1))
    assert warm.products < found.products
    assert warm.lambda_min == pytest.approx(found.lambda_min, rel=0.02)


def test_rotated_coordinates_give_the_same_numbers(case):
    """Only inner products are used: an orthogonal change of coordinates changes nothing."""
    function, point = case
    n = point.numel()
    rotation, _ = torch.linalg.qr(torch.randn(n, n, generator=generator(5), dtype=point.dtype))
    plain = probe(TorchReducedLoss(function, point), None, generator(), tolerance=1e-9)
    turned = probe(
        TorchReducedLoss(lambda x: function(rotation.T @ x), rotation @ point),
        None,
        generator(7),
        tolerance=1e-9,
    )
    assert turned.lambda_min == pytest.approx(plain.lambda_min, rel=1e-7)
    assert turned.lambda_max == pytest.approx(plain.lambda_max, rel=1e-7)
    assert turned.share == pytest.approx(plain.share, rel=1e-6)
    assert turned.slice.losses == pytest.approx(plain.slice.losses, rel=1e-6)


def test_projected_convex_problem_has_no_unstable_direction():
    """Vertical directions would show as zero eigenvalues; on the horizontal space the loss is convex."""
    keep = torch.diag(torch.cat([torch.ones(30), torch.zeros(10)]).double())
    scales = torch.linspace(0.5, 3, 40, dtype=torch.float64)
    reduced = TorchReducedLoss(
        lambda x: 0.5 * (scales * (keep @ x) ** 2).sum(), torch.ones(40, dtype=torch.float64), keep
    )
    found = probe(reduced, None, generator())
    assert found.lambda_min == pytest.approx(0.5, rel=0.02)
    assert not found.unstable
    assert found.slice is None


def test_zero_gradient_is_not_an_error():
    reduced = TorchReducedLoss(lambda x: (x**2).sum() - 3 * x[0] ** 2, torch.zeros(9, dtype=torch.float64))
    found = probe(reduced, None, generator())
    assert found.gradient_measure is None
    assert (found.share, found.lambda_min) == (0.0, pytest.approx(-4.0))
    assert found.slice is None


def test_not_finite():
    reduced = TorchReducedLoss(lambda x: (x / 0.0).sum(), torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="gradient has norm"):
        probe(reduced, None, generator())
    assert math.isinf(reduced.loss())
