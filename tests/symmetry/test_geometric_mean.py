"""Balancing two stacks: against algebra known by construction, from well-conditioned to rank-deficient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shockwatch.symmetry.geometric_mean import balanced, balancing

DOUBLE = torch.float64


def pair(values: list[float], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two stacks with product ``U S V^T`` of singular ``values``, far from balance, and that product, ``(7, 6)``."""
    torch.manual_seed(seed)
    s, d = torch.tensor(values, dtype=DOUBLE), len(values)
    left, right = (torch.linalg.qr(torch.randn(n, d, dtype=DOUBLE)).Q for n in (7, 6))
    gauge = torch.randn(d, d, dtype=DOUBLE)
    p = gauge @ (s.sqrt() * left).mT
    n = torch.linalg.inv(gauge).mT @ (s.sqrt() * right).mT
    return p[None], n[None], (left * s @ right.mT)[None]


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_both_forms_agree(power: float) -> None:
    p, n, _ = pair([3.0, 1.0, 0.5, 0.2])
    vectors, logs, precise = balancing(p @ p.mT, n @ n.mT)
    assert precise.all()
    expected = (vectors * torch.exp(power * logs)[:, None, :]) @ vectors.mT
    new_p, new_n, matrix = balanced(p, n, power)
    torch.testing.assert_close(matrix, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(new_p, expected @ p, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(new_n, torch.linalg.inv(expected).mT @ n, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("least", [1e-3, 1e-6, 1e-11, 0.0])
def test_equal_grams_and_the_same_product(least: float) -> None:
    """Singular values of the balanced sides are the roots of those of the product, the smallest one too."""
    values = [3.0, 1.0, 0.5, least]
    p, n, product = pair(values)
    new_p, new_n, matrix = balanced(p, n)
    torch.testing.assert_close(new_p @ new_p.mT, new_n @ new_n.mT, rtol=0, atol=1e-14)
    torch.testing.assert_close(new_p.mT @ new_n, product, rtol=0, atol=1e-13)
    found = torch.linalg.svdvals(new_p)[0]
    torch.testing.assert_close(found, torch.tensor(values, dtype=DOUBLE).sqrt(), rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(matrix, matrix.mT)
    again = balanced(new_p, new_n)
    torch.testing.assert_close(again[0], new_p, rtol=0, atol=1e-13)


def test_a_side_at_zero_takes_the_other_with_it() -> None:
    p, n, _ = pair([3.0, 1.0, 0.5, 0.2])
    new_p, new_n, matrix = balanced(p, torch.zeros_like(n))
    assert not new_p.any()
    assert not new_n.any()
    torch.testing.assert_close(matrix, torch.eye(4, dtype=DOUBLE)[None])


def test_what_would_lose_digits_is_told() -> None:
    p, n, _ = pair([3.0, 1.0, 0.5, 1e-5])
    vectors, logs, precise = balancing(p @ p.mT, n @ n.mT)
    assert not precise.any()
    assert not logs.any()
    assert torch.isfinite(vectors).all()
