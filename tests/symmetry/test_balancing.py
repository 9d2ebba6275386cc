"""The canonical form is reached in few sweeps, from any gauge, in both precisions."""

from __future__ import annotations

from itertools import pairwise

import mpmath
import pytest
import torch
from torch import nn

from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.acting import Acting
from shockwatch.symmetry.balancing import balance_
from tests.symmetry.cases import CASES, cross_entropy, state_of
from tests.symmetry.test_quotient import prepared

MOST = 100
WIDTHS = [(6, 7, 7, 8), (6, 9, 12, 8), (8, 8, 8, 8, 8), (6, 9, 9, 9, 8), (6, *[9] * 7, 8)]
# in twelve layers of condition 1e-6 a gauge at random leaves no digit of the least singular value
CHAINS = [((6, 7, 7, 8), 1.0), *((widths, c) for widths in WIDTHS for c in (1e-3, 1e-6)), ((8,) * 13, 1e-3)]


def sweeps(quotient: Quotient, state: dict[str, torch.Tensor]) -> int:
    acting = Acting(quotient.groups, quotient.names, state)
    packed = acting.layout.pack(state)
    with torch.no_grad():
        return max([0, *(balance_(groups, packed.stacks) for groups in acting.components)])


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_sweeps(name: str) -> None:
    """From gauges ``e^(2 N(0, 1))``."""
    _, _, quotient, state = prepared(name)
    for seed in range(2):
        moved = quotient.random_transform(state, torch.Generator().manual_seed(seed), 2.0)
        narrow = {n: t.float() if t.is_floating_point() else t for n, t in moved.items()}
        assert sweeps(quotient, moved) < MOST
        assert sweeps(quotient, narrow) < MOST


def chain(widths: tuple[int, ...], condition: float) -> nn.Sequential:
    """Linear layers with random singular vectors, and singular values between ``condition`` and 1."""
    torch.manual_seed(3)
    layers = [nn.Linear(a, b, bias=False).double() for a, b in pairwise(widths)]
    for layer in layers:
        left, _, right = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        values = condition ** torch.rand(len(right), dtype=torch.float64)
        layer.weight.data = left * values @ right
    return nn.Sequential(*layers)


def least_squared_norm(weights: list[torch.Tensor]) -> float:
    """``n`` balanced layers share the singular values of their product, ``|q|^2 = n sum s^(2/n)``; in 100 digits.

    The last map has lost the direction that shifts all logits.
    """
    with mpmath.workdps(100):
        product = mpmath.eye(weights[0].shape[1])
        for weight in weights:
            product = mpmath.matrix(weight.tolist()) * product
        for k in range(product.cols):
            mean = mpmath.fsum(product[:, k]) / product.rows
            for row in range(product.rows):
                product[row, k] -= mean
        power = mpmath.mpf(1) / len(weights)
        squares = mpmath.eigsy(product.T * product, eigvals_only=True)
        return float(len(weights) * mpmath.fsum(s**power for s in squares if s > mpmath.mpf(10) ** -80))


@pytest.mark.parametrize(("widths", "condition"), CHAINS, ids=str)
def test_chains_of_linear_layers(widths: tuple[int, ...], condition: float) -> None:
    """Every inner axis is general linear; wider than what comes through, it has a limit only."""
    model = chain(widths, condition)
    batch = torch.randn(24, widths[0]).double(), torch.randint(0, widths[-1], (24,))
    quotient, state = infer_symmetries(model, cross_entropy, batch), state_of(model)
    least, base = least_squared_norm(list(state.values())), quotient.balance(state)
    for seed in range(2):
        moved = quotient.random_transform(state, torch.Generator().manual_seed(seed), 2.0)
        assert sweeps(quotient, moved) < MOST
        assert sweeps(quotient, {n: t.float() for n, t in moved.items()}) < MOST
        canonical = quotient.canonicalize(moved)
        assert quotient.norm(canonical) ** 2 == pytest.approx(least, rel=1e-9)
        assert quotient.euclidean(quotient.match(canonical, base), base) < 1e-8 * quotient.norm(base)
        assert quotient.euclidean(quotient.canonicalize(canonical), canonical) < 1e-10


class Skip(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def mixed(name: str) -> nn.Sequential:
    """Linear chains that share their weights with rectified units, or with a stream."""
    maps = [nn.Linear(6, 7), *(nn.Linear(7, 7) for _ in range(4)), nn.Linear(7, 8)]
    if name == "rectified":
        return nn.Sequential(maps[0], nn.ReLU(), *maps[1:4], nn.ReLU(), maps[4], maps[5])
    inner = (
        Skip(nn.Linear(7, 5), nn.Linear(5, 5), nn.Linear(5, 7)),
        Skip(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 7)),
    )
    return nn.Sequential(maps[0], *inner, maps[5])


@pytest.mark.parametrize("condition", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("name", ["rectified", "stream"])
def test_linear_chains_beside_other_groups(name: str, condition: float) -> None:
    torch.manual_seed(0)
    model = mixed(name).double()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = chain((layer.in_features, layer.out_features), condition)[0].weight.data
    batch = torch.randn(24, 6).double(), torch.randint(0, 8, (24,))
    quotient, state = infer_symmetries(model, cross_entropy, batch), state_of(model)
    for seed in range(2):
        moved = quotient.random_transform(state, torch.Generator().manual_seed(seed), 2.0)
        assert sweeps(quotient, moved) < MOST
        assert sweeps(quotient, {n: t.float() for n, t in moved.items()}) < MOST
