"""A random projection keeps lengths, takes no memory, and is the same for one seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shockwatch.sketches import RandomProjection


def dense(projection: RandomProjection, length: int) -> torch.Tensor:
    return torch.stack([projection(row) for row in torch.eye(length, dtype=torch.float64)], 1)


def test_is_the_linear_map_with_one_sign_a_column() -> None:
    """Against its matrix: entry ``i`` goes to ``i mod size`` and nowhere else."""
    projection = RandomProjection(50, 8, 3)
    assert projection.size == 7
    matrix = dense(projection, 50)
    places = torch.arange(50) % 7
    assert torch.equal(matrix.abs(), torch.nn.functional.one_hot(places).T.double())
    assert {-1.0, 1.0} <= set(matrix.unique().tolist())
    vector = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(projection(vector), matrix @ vector, atol=1e-14)


def test_lengths_spread_as_said() -> None:
    """Over seeds ``|S x|^2`` has mean ``|x|^2`` and standard deviation ``sqrt(2 / k)`` of it (no entry dominates)."""
    vector = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ratios = np.array(
        [
            float(RandomProjection(20_000, 101, seed)(vector).square().sum() / vector.square().sum())
            for seed in range(400)
        ]
    )
    spread = (2 / 101) ** 0.5
    assert abs(ratios.mean() - 1) < 4 * spread / 20
    assert ratios.std() == pytest.approx(spread, rel=0.15)


def test_a_single_column_of_a_tensor_spreads_over_the_places() -> None:
    mask = torch.zeros(256, 128)
    mask[:, 5] = 1.0
    column = RandomProjection(256 * 128, 1024, 0)(mask.reshape(-1))
    assert float(column.abs().max()) <= 1.0, "no two entries of a column share a place"
    assert float(column.square().sum()) == 256.0


def test_chunks_do_not_show() -> None:
    """More than one chunk of signs: linear, and the same as on a longer vector that ends in zeros."""
    length = 700_001
    vector = torch.randn(length, generator=torch.Generator().manual_seed(0))
    projection = RandomProjection(length, 1000, 7)
    head = torch.cat([vector[:400_000], torch.zeros(length - 400_000)])
    tail = vector - head
    assert torch.allclose(projection(head) + projection(tail), projection(vector), atol=1e-3)
    assert torch.equal(projection(vector), RandomProjection(length, 1000, 7)(vector))
    assert not torch.allclose(projection(vector), RandomProjection(length, 1000, 8)(vector))


def test_small_vectors_stay_whole_and_narrow_types_widen() -> None:
    vector = torch.arange(5.0).to(torch.bfloat16)
    kept = RandomProjection(5, 10, 0)(vector)
    assert kept.dtype == torch.float32
    assert kept.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    kept.zero_()
    assert vector[1] == 1.0, "a copy"


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"size=0"):
        RandomProjection(5, 0, 0)
    with pytest.raises(ValueError, match=r"vector=\(4,\): must have shape \(5,\)"):
        RandomProjection(5, 5, 0)(torch.zeros(4))
