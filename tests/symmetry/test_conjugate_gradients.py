"""Conjugate gradients against dense pseudo-inverses."""

from __future__ import annotations

import torch
from torch import Tensor

from shockwatch.symmetry.conjugate_gradients import conjugate_gradients


def singular(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A semi-definite matrix of rank 6 on 9 dimensions, and its pseudo-inverse."""
    generator = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64)).Q
    values = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.7, 0.4, 0.0, 0.0, 0.0], dtype=torch.float64)
    matrix = (frame * values) @ frame.T
    return matrix.to(dtype), torch.linalg.pinv(matrix, rtol=1e-10, hermitian=True)


def solved(matrix: Tensor, right: Tensor, tolerance: float, floor: float) -> Tensor:
    diagonal = matrix.diagonal()
    return conjugate_gradients(
        lambda x: [matrix @ x[0]], [right], lambda x: [x[0] / diagonal], tolerance, floor
    )[0]


def test_a_right_side_in_the_range_is_solved() -> None:
    matrix, inverse = singular(torch.float64)
    right = matrix @ torch.linspace(-1, 1, 9, dtype=torch.float64)
    solution = solved(matrix, right, 1e-12, 1e-9)
    torch.testing.assert_close(matrix @ solution, right, rtol=0, atol=1e-8)
    torch.testing.assert_close(inverse @ (matrix @ solution), inverse @ right, rtol=0, atol=1e-8)


def test_rounding_outside_the_range_is_left_alone() -> None:
    matrix, _ = singular(torch.float32)
    noise = 1e-7 * torch.randn(9, generator=torch.Generator().manual_seed(1))
    assert float(solved(matrix, noise, 1e-6, 1e-5).abs().max()) == 0.0
    # why: without a floor the part in the null space sends the solution away
    assert float(solved(matrix, noise, 1e-6, 0.0).abs().max()) > 1e-5
