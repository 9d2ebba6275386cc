"""Rayleigh-Ritz at both ends of a spectrum against dense eigenvalues."""

import math
from collections.abc import Callable

import pytest
import torch

from shockwatch.curvature.extremes import ExtremeEigenvalues, Recycled, extreme_eigenvalues
from shockwatch.curvature.lanczos import krylov
from shockwatch.curvature.ritz import RitzSpace
from tests.curvature.dense import DOUBLE, generator, identity, symmetric

Operator = Callable[[torch.Tensor], torch.Tensor]


def space_of(
    operator: Operator, n: int, project: Operator = identity, seed: int = 0, dtype=DOUBLE
) -> RitzSpace:
    """A space that holds one random vector."""
    space = RitzSpace(operator, project, torch.zeros(n, dtype=dtype))
    space.add(torch.randn(n, generator=generator(seed), dtype=dtype))
    return space


def ends(
    operator: Operator, n: int, project: Operator = identity, seed: int = 0, **options
) -> ExtremeEigenvalues:
    return extreme_eigenvalues(space_of(operator, n, project, seed), **options)


def test_two_thousand_dimensions_to_one_percent():
    n = 2000
    a = torch.randn(n, n, generator=generator(1), dtype=DOUBLE)
    matrix = (a + a.T) / math.sqrt(2 * n)  # semicircle on [-2, 2]: no gap at either end, the hard case
    truth = torch.linalg.eigvalsh(matrix)
    found = ends(lambda v: matrix @ v, n)
    assert found.lambda_min == pytest.approx(float(truth[0]), rel=0.01)
    assert found.lambda_max == pytest.approx(float(truth[-1]), rel=0.01)
    assert found.products <= 60


@pytest.mark.parametrize("low", [-3.0, -0.2, -0.02])
def test_small_negative_eigenvalue_under_a_large_positive_one(low):
    """lambda_max / |lambda_min| up to 5,000, as in trained networks: relative accuracy at both ends."""
    bulk = torch.rand(1997, generator=generator(2), dtype=DOUBLE) ** 4
    values = torch.cat([torch.tensor([low, 40.0, 100.0], dtype=DOUBLE), bulk * abs(low)])
    # the random start makes a diagonal operator as hard as a dense one
    found = ends(lambda v: values * v, 2000, tolerance=1e-3)
    assert found.lambda_min == pytest.approx(low, rel=0.01)
    assert found.lambda_max == pytest.approx(100.0, rel=0.01)


def test_residuals_and_vectors_are_what_they_claim():
    matrix = symmetric(torch.linspace(-1, 5, 300))
    found = ends(lambda v: matrix @ v, 300)
    for value, vector, residual in (
        (found.lambda_min, found.vector_min, found.residual_min),
        (found.lambda_max, found.vector_max, found.residual_max),
    ):
        assert float(vector.norm()) == pytest.approx(1.0)
        # rounding of the recurrence is far below 1e-10 here
        assert float((matrix @ vector - value * vector).norm()) == pytest.approx(residual, abs=1e-10)


def test_tight_tolerance_gives_digits_whatever_the_start():
    values = torch.cat(
        [torch.linspace(-2, 3, 397, dtype=DOUBLE), torch.tensor([-2.001, -2.4, 3.01], dtype=DOUBLE)]
    )
    matrix = symmetric(values)
    for seed in range(3):
        found = ends(lambda v: matrix @ v, 400, seed=seed, tolerance=1e-9, max_products=1000)
        assert found.lambda_min == pytest.approx(-2.4, abs=1e-8)
        assert found.lambda_max == pytest.approx(3.01, abs=1e-8)


def test_vertical_zero_modes_do_not_appear():
    n, vertical = 200, 60
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator(4), dtype=DOUBLE))
    horizontal = basis[:, vertical:]
    projector = horizontal @ horizontal.T
    matrix = horizontal @ torch.diag(torch.linspace(0.3, 7, n - vertical, dtype=DOUBLE)) @ horizontal.T
    space = space_of(lambda v: matrix @ v, n, lambda v: projector @ v)
    space.add(torch.ones(n, dtype=DOUBLE))
    found = extreme_eigenvalues(space, tolerance=1e-6, max_products=200)
    assert found.lambda_min == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vertical_modes_stay_out_when_the_krylov_space_is_exhausted(dtype):
    """Three distinct eigenvalues only: after three products all that is left is rounding."""
    diagonal = torch.tensor([2.0, 3.0, 5.0] * 10 + [0.0] * 70, dtype=dtype)
    keep = (diagonal > 0).to(dtype)
    space = space_of(lambda v: diagonal * v, 100, lambda v: keep * v, dtype=dtype)
    found = extreme_eigenvalues(space, tolerance=1e-5)
    assert found.lambda_min == pytest.approx(2.0, rel=1e-4)
    assert found.lambda_max == pytest.approx(5.0, rel=1e-4)


def test_a_start_orthogonal_to_the_wanted_direction_does_not_fool_it():
    values = torch.linspace(0.5, 4, 500, dtype=DOUBLE)
    values[0] = -1.0
    known = torch.zeros(500, dtype=DOUBLE)
    known[1], known[-1] = 1.0, 1.0  # an invariant subspace: a start from it alone would stop at once
    for seed in range(5):
        space = space_of(lambda v: values * v, 500, seed=seed)
        space.add(known)
        found = extreme_eigenvalues(space)
        assert found.lambda_min == pytest.approx(-1.0, rel=0.01)


def test_recycled_vectors_make_it_cheaper_and_a_new_minimum_is_seen():
    values = torch.cat([torch.tensor([-1.0]), torch.linspace(-0.8, 9, 1998), torch.tensor([10.0])]).to(DOUBLE)
    cold = space_of(lambda v: values * v, 2000)
    first = extreme_eigenvalues(cold)
    assert first.lambda_min == pytest.approx(-1.0, rel=0.01)
    recycled = Recycled.of(cold)
    again = extreme_eigenvalues(space_of(lambda v: 1.01 * values * v, 2000, seed=1), recycled=recycled)
    assert again.products <= 6 < first.products
    assert again.lambda_min == pytest.approx(-1.01, rel=0.01)
    moved = values.clone()
    moved[1000] = -2.0
    space = RitzSpace(lambda v: moved * v, identity, values)
    krylov(space.multiply, torch.randn(2000, generator=generator(1), dtype=DOUBLE), 12)
    assert extreme_eigenvalues(space, recycled=recycled).lambda_min == pytest.approx(-2.0, rel=0.01)


def test_the_correction_is_the_inverse_that_the_recycled_pairs_know():
    """Where all pairs are kept it solves ``(H - lambda) x = r`` exactly."""
    values = torch.linspace(-1, 5, 12, dtype=DOUBLE)
    matrix = symmetric(values)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    known = Recycled(eigenvalues.numpy(), vectors.T.contiguous())
    residual = torch.randn(12, generator=generator(3), dtype=DOUBLE)
    exact = torch.linalg.solve(matrix + 1.3 * torch.eye(12, dtype=DOUBLE), residual)
    assert torch.allclose(known.correction(residual, -1.3, 6.0), exact, atol=1e-10)


def test_what_is_recycled():
    matrix = symmetric(torch.linspace(-0.01, 5, 60))
    space = RitzSpace(lambda v: matrix @ v, identity, torch.zeros(60, dtype=DOUBLE))
    krylov(space.multiply, torch.ones(60, dtype=DOUBLE), 40)
    kept, (ritz, _) = Recycled.of(space), space.ritz()
    assert len(kept.values) == 20
    assert (kept.values[0], kept.values[-1]) == (ritz[0], ritz[-1])
    gram = kept.vectors @ kept.vectors.T
    assert torch.allclose(gram, torch.eye(20, dtype=DOUBLE), atol=1e-10)
    rayleigh = torch.einsum("kd,de,ke->k", kept.vectors, matrix, kept.vectors)
    assert torch.allclose(rayleigh, torch.from_numpy(kept.values), atol=1e-10)


def test_every_product_is_kept_and_none_is_made_twice():
    count = 0
    matrix = symmetric(torch.linspace(-1, 5, 80))

    def operator(v: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return matrix @ v

    space = RitzSpace(operator, identity, torch.zeros(80, dtype=DOUBLE))
    first = torch.randn(80, generator=generator(5), dtype=DOUBLE)
    krylov(space.multiply, first, 5)
    krylov(space.multiply, torch.randn(80, generator=generator(6), dtype=DOUBLE), 4)
    assert not space.add(first)  # inside: no product
    assert space.add(torch.ones(80, dtype=DOUBLE))
    assert space.products == count == len(space) == 10
    assert torch.allclose(space.basis @ space.basis.T, torch.eye(10, dtype=DOUBLE), atol=1e-12)
    assert torch.allclose(space.basis @ matrix @ space.basis.T, torch.from_numpy(space.projected), atol=1e-10)
    assert torch.allclose(space.basis[0], first / first.norm())
    values, coordinates = space.ritz()
    places = (0, 4, 9)
    for index, residual in zip(places, space.residuals(places), strict=True):
        vector = space.vector(coordinates[:, index])
        assert torch.allclose(residual, matrix @ vector - values[index] * vector, atol=1e-10)
        assert space.leak(coordinates[:, index]) == pytest.approx(float(residual.norm()))


def test_arguments():
    with pytest.raises(ValueError, match="dimension zero"):
        ends(identity, 4, lambda v: 0 * v)
    with pytest.raises(ValueError, match="tolerance"):
        ends(identity, 4, tolerance=0.0)
    with pytest.raises(ValueError, match="not finite"):
        ends(lambda v: v * math.nan, 4)


def test_one_dimension():
    found = ends(lambda v: -3 * v, 1)
    assert (found.lambda_min, found.lambda_max) == pytest.approx((-3.0, -3.0))
