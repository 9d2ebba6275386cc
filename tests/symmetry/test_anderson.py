"""Acceleration against the exact fixed point of linear maps."""

import pytest
import torch

from shockwatch.symmetry.anderson import Anderson


@pytest.mark.parametrize("seed", range(5))
def test_a_linear_map_ends_in_as_many_steps_as_it_has_dimensions(seed):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    matrix = basis * torch.tensor([0.99, 0.9, 0.5, -0.3], dtype=torch.float64) @ basis.T
    shift = torch.randn(4, generator=generator, dtype=torch.float64)
    fixed = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - matrix, shift)
    memory, point = Anderson(), torch.zeros(4, dtype=torch.float64)
    for _ in range(8):
        point = memory.next(point, matrix @ point + shift)
    torch.testing.assert_close(point, fixed, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_it_stays_where_nothing_moves_any_more(seed):
    """Residuals at rounding, some twice the same: what a map returns while other groups move by a last bit."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(6, generator=generator, dtype=torch.float64)
    memory, point = Anderson(), start
    residual = torch.zeros(6, dtype=torch.float64)
    for _ in range(30):
        if torch.rand((), generator=generator) < 0.6:
            residual = 1e-16 * torch.randint(-2, 3, (6,), generator=generator).double()
        point = memory.next(point, point + residual)
    torch.testing.assert_close(point, start, rtol=0, atol=1e-12)
