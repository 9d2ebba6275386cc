"""Rotations act on features wherever they stand in a tensor."""

from __future__ import annotations

import pytest
import torch

from shockwatch.symmetry.groups.turning import TurningGenerators
from shockwatch.symmetry.pieces import Place, lay_out

SPECS = {0: "ef,fab->eab", 1: "ef,afb->aeb", 2: "ef,abf->abe"}


@pytest.mark.parametrize("position", SPECS)
@pytest.mark.parametrize("scaled", [False, True])
def test_features_first_between_and_last(position: int, scaled: bool) -> None:
    generator = torch.Generator().manual_seed(position)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    sizes = [3, 4]
    sizes.insert(position, 5)
    _, (piece,) = lay_out("weight", True, [Place(size) for size in sizes])
    weight, tangent, matrix = draw(*sizes), draw(*sizes), draw(5, 5)
    scale = draw(5).abs() + 0.5 if scaled else torch.ones(5, dtype=torch.float64)
    # s A (P / s)
    acting = scale[:, None] * matrix / scale
    expected = torch.einsum(SPECS[position], acting, weight)
    state = {"weight": weight.clone()}
    generators = TurningGenerators(
        torch.zeros(5, 5, dtype=torch.float64),
        [(scale.reshape(1, 5, 1) if scaled else None, [(piece, position)])],
        state,
        lambda coefficients: coefficients,
    )
    moved = {"weight": tangent.clone()}
    generators.generate_(matrix, moved)
    assert torch.allclose(moved["weight"], tangent + expected)
    # the adjoint: <A, G^T t> = <G A, t>
    assert float((generators.adjoint({"weight": tangent}) * matrix).sum()) == pytest.approx(
        float((expected * tangent).sum())
    )
    generators.turn_(matrix)
    assert torch.allclose(state["weight"], expected)
    assert generators.moves({"weight"})
    assert not generators.moves({"other"})
    assert float(generators.meeting({"weight": tangent}, {"other"}).norm()) == 0.0
