"""Lanczos iteration: its relation, and what it refuses."""

import math

import pytest
import torch

from shockwatch.curvature.lanczos import krylov
from tests.curvature.dense import DOUBLE, identity, symmetric


def test_krylov_relation():
    matrix = symmetric(torch.linspace(-1, 1, 40))
    state = krylov(lambda v: matrix @ v, torch.ones(40, dtype=DOUBLE), 12)
    gram = state.basis @ state.basis.T
    assert torch.allclose(gram, torch.eye(12, dtype=DOUBLE), atol=1e-13)
    t = state.basis @ matrix @ state.basis.T
    assert torch.allclose(t, torch.from_numpy(state.projected), atol=1e-12)
    assert torch.allclose(t.diagonal(), torch.from_numpy(state.diagonal), atol=1e-12)
    assert torch.allclose(t.diagonal(1), torch.from_numpy(state.off_diagonal), atol=1e-12)


def test_arguments():
    zero = torch.zeros(4, dtype=DOUBLE)
    with pytest.raises(ValueError, match="norm 0"):
        krylov(identity, zero, 3)
    with pytest.raises(ValueError, match="not finite"):
        krylov(lambda v: v * math.nan, zero + 1, 3)
