"""Coupled blocks, some of them eliminated; a rotation's generators in place; conjugate gradients that follow more."""

from __future__ import annotations

import pytest
import torch

from shockwatch.symmetry.conjugate_gradients import conjugate_gradients
from tests.symmetry.cases import BY_NAME
from tests.symmetry.spans import generators
from tests.symmetry.test_quotient import prepared

COUPLED = ["llama", "stack", "vision", "post-norm encoder", "swiglu", "multi-head"]


@pytest.mark.parametrize("often", [True, False])
@pytest.mark.parametrize("name", [n for n in COUPLED if n in BY_NAME])
def test_vertical_norm_is_that_of_the_part_in_the_span_of_all_generators(name: str, often: bool) -> None:
    """Dense algebra, at a raw state as at the canonical one."""
    _, _, quotient, state = prepared(name)
    for point in (quotient.pack(state), quotient.canonicalize(state)):
        basis = torch.linalg.svd(generators(quotient, point), full_matrices=False)
        span = basis.Vh[1e-10 * basis.S[0] < basis.S]
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(span.shape[1], generator=generator, dtype=torch.float64)
        project = quotient.projector(point, often=often)
        tangent = quotient.unflatten(vector, point)
        expected = span.T @ (span @ vector)
        assert project.vertical_norm(tangent) == pytest.approx(float(expected.norm()), rel=1e-9)
        assert torch.allclose(vector - quotient.flatten(project(tangent)), expected, atol=1e-8)


@pytest.mark.parametrize("name", ["llama", "stack", "vision"])
def test_generators_of_a_rotation_are_its_derivative(name: str) -> None:
    _, _, quotient, state = prepared(name)
    point = quotient.pack(state)
    rotations = quotient._acting(point)._rotations
    assert rotations
    for group in rotations:
        generator = torch.Generator().manual_seed(0)
        draw = torch.randn(group.size, group.size, generator=generator, dtype=torch.float64)
        skew = group._project(draw)
        ends = []
        for step in (1e-5, -1e-5):
            ends.append({n: t.clone() for n, t in point.stacks.items()})
            group.turn_(ends[-1], torch.matrix_exp(step * skew))
        found = {n: torch.zeros_like(t) for n, t in point.stacks.items()}
        group.generators(point.stacks).generate_(draw, found)
        for n, tangent in found.items():
            assert torch.allclose(tangent, (ends[0][n] - ends[1][n]) / 2e-5, atol=1e-8), n
        noise = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in found.items()}
        inner = sum(float((noise[n] * found[n]).sum()) for n in found)
        adjoint = group.adjoint(point.stacks, noise)
        assert float((adjoint * skew).sum()) == pytest.approx(inner, rel=1e-9)


def test_conjugate_gradients_carry_what_the_product_gives_beside() -> None:
    generator = torch.Generator().manual_seed(0)
    root, beside = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((6, 6), (3, 6)))
    matrix, right = root @ root.T + torch.eye(6), torch.ones(6, dtype=torch.float64)
    x, y = conjugate_gradients(
        lambda v: [matrix @ v[0], beside @ v[0]], [right], lambda v: [v[0] / matrix.diagonal()], 1e-13
    )
    assert torch.allclose(x, torch.linalg.solve(matrix, right), atol=1e-10)
    assert torch.allclose(y, beside @ x, atol=1e-10)
    assert len(conjugate_gradients(lambda v: v, [torch.zeros(2)], lambda v: v, 1e-3)) == 1
