"""Lanczos against dense eigenvalues."""

import math

import pytest
import torch

from shockwatch.curvature.lanczos import extreme_eigenvalues, krylov

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A dense matrix with these eigenvalues, in a random basis."""
    n = len(values)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator(seed), dtype=DOUBLE))
    return basis @ torch.diag(values.to(DOUBLE)) @ basis.T


def identity(v: torch.Tensor) -> torch.Tensor:
    return v


def test_two_thousand_dimensions_to_one_percent():
    n = 2000
    a = torch.randn(n, n, generator=generator(1), dtype=DOUBLE)
    matrix = (a + a.T) / math.sqrt(2 * n)  # semicircle on [-2, 2]: no gap at either end, the hard case
    truth = torch.linalg.eigvalsh(matrix)
    found = extreme_eigenvalues(lambda v: matrix @ v, n, project=identity, generator=generator())
    assert found.lambda_min == pytest.approx(float(truth[0]), rel=0.01)
    assert found.lambda_max == pytest.approx(float(truth[-1]), rel=0.01)
    assert found.products <= 60


@pytest.mark.parametrize("low", [-3.0, -0.2, -0.02])
def test_small_negative_eigenvalue_under_a_large_positive_one(low):
    """lambda_max / |lambda_min| up to 5,000, as in trained networks: relative accuracy at both ends."""
    bulk = torch.rand(1997, generator=generator(2), dtype=DOUBLE) ** 4
    values = torch.cat([torch.tensor([low, 40.0, 100.0], dtype=DOUBLE), bulk * abs(low)])
    # the random start makes a diagonal operator as hard as a dense one
    found = extreme_eigenvalues(
        lambda v: values * v, 2000, project=identity, generator=generator(), tolerance=1e-3
    )
    assert found.lambda_min == pytest.approx(low, rel=0.01)
    assert found.lambda_max == pytest.approx(100.0, rel=0.01)


def test_residuals_and_vectors_are_what_they_claim():
    matrix = symmetric(torch.linspace(-1, 5, 300))
    found = extreme_eigenvalues(lambda v: matrix @ v, 300, project=identity, generator=generator())
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
        found = extreme_eigenvalues(
            lambda v: matrix @ v,
            400,
            project=identity,
            generator=generator(seed),
            tolerance=1e-9,
            max_products=1000,
        )
        assert found.lambda_min == pytest.approx(-2.4, abs=1e-8)
        assert found.lambda_max == pytest.approx(3.01, abs=1e-8)


def test_vertical_zero_modes_do_not_appear():
    n, vertical = 200, 60
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator(4), dtype=DOUBLE))
    horizontal = basis[:, vertical:]
    projector = horizontal @ horizontal.T
    matrix = horizontal @ torch.diag(torch.linspace(0.3, 7, n - vertical, dtype=DOUBLE)) @ horizontal.T
    found = extreme_eigenvalues(
        lambda v: matrix @ v,
        n,
        project=lambda v: projector @ v,
        generator=generator(),
        known=[torch.ones(n, dtype=DOUBLE)],
        tolerance=1e-6,
        max_products=200,
    )
    assert found.lambda_min == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vertical_modes_stay_out_when_the_krylov_space_is_exhausted(dtype):
    """Three distinct eigenvalues only: after three products all that is left is rounding."""
    diagonal = torch.tensor([2.0, 3.0, 5.0] * 10 + [0.0] * 70, dtype=dtype)
    keep = (diagonal > 0).to(dtype)
    found = extreme_eigenvalues(
        lambda v: diagonal * v,
        100,
        project=lambda v: keep * v,
        generator=generator(),
        dtype=dtype,
        tolerance=1e-5,
    )
    assert found.lambda_min == pytest.approx(2.0, rel=1e-4)
    assert found.lambda_max == pytest.approx(5.0, rel=1e-4)


def test_a_start_orthogonal_to_the_wanted_direction_does_not_fool_it():
    values = torch.linspace(0.5, 4, 500, dtype=DOUBLE)
    values[0] = -1.0
    known = torch.zeros(500, dtype=DOUBLE)
    known[1], known[-1] = 1.0, 1.0  # an invariant subspace: a start from it alone would stop at once
    for seed in range(5):
        found = extreme_eigenvalues(
            lambda v: values * v, 500, project=identity, generator=generator(seed), known=[known]
        )
        assert found.lambda_min == pytest.approx(-1.0, rel=0.01)


def test_warm_start_is_cheaper_and_follows_a_new_minimum():
    values = torch.cat([torch.tensor([-1.0]), torch.linspace(-0.8, 9, 1998), torch.tensor([10.0])]).to(DOUBLE)
    cold = extreme_eigenvalues(lambda v: values * v, 2000, project=identity, generator=generator())
    again = {"project": identity, "generator": generator(1), "known": [cold.vector_min, cold.vector_max]}
    warm = extreme_eigenvalues(lambda v: 1.01 * values * v, 2000, **again)
    assert warm.products <= 0.6 * cold.products  # the 12 it always spends, of 20
    assert warm.lambda_min == pytest.approx(-1.01, rel=0.01)
    moved = values.clone()
    moved[1000] = -2.0
    found = extreme_eigenvalues(lambda v: moved * v, 2000, **again)
    assert found.lambda_min == pytest.approx(-2.0, rel=0.01)


def test_krylov_relation():
    matrix = symmetric(torch.linspace(-1, 1, 40))
    state = krylov(lambda v: matrix @ v, torch.ones(40, dtype=DOUBLE), 12)
    gram = state.basis @ state.basis.T
    assert torch.allclose(gram, torch.eye(12, dtype=DOUBLE), atol=1e-13)
    t = state.basis @ matrix @ state.basis.T
    assert torch.allclose(t.diagonal(), torch.from_numpy(state.diagonal), atol=1e-12)
    assert torch.allclose(t.diagonal(1), torch.from_numpy(state.off_diagonal), atol=1e-12)


def test_arguments():
    zero = torch.zeros(4, dtype=DOUBLE)
    with pytest.raises(ValueError, match="norm 0"):
        krylov(identity, zero, 3)
    with pytest.raises(ValueError, match="not finite"):
        krylov(lambda v: v * math.nan, zero + 1, 3)
    with pytest.raises(ValueError, match="dimension zero"):
        extreme_eigenvalues(identity, 4, project=lambda v: 0 * v, generator=generator())
    with pytest.raises(ValueError, match="tolerance"):
        extreme_eigenvalues(identity, 4, project=identity, generator=generator(), tolerance=0.0)


def test_one_dimension():
    found = extreme_eigenvalues(lambda v: -3 * v, 1, project=identity, generator=generator())
    assert (found.lambda_min, found.lambda_max) == pytest.approx((-3.0, -3.0))
