"""The canonical form is reached in few sweeps, from any gauge, in both precisions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.acting import Acting
from shockwatch.symmetry.balancing import balance_
from tests.symmetry.cases import CASES, cross_entropy, state_of
from tests.symmetry.test_quotient import prepared

MOST = 100
CHAINS = [(6, 7, 7, 8), (8, 8, 8, 8), (6, 9, 12, 8), (6, 7, 7, 7, 8), (8, 8, 8, 8, 8, 8)]


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


@pytest.mark.parametrize("condition", [1.0, 1e-3])
@pytest.mark.parametrize("widths", CHAINS, ids=str)
def test_chains_of_linear_layers(widths: tuple[int, ...], condition: float) -> None:
    """Every inner axis is general linear, and the last map has lost the direction that shifts all logits.

    The least norm is known: ``n`` layers share the singular values of their product, ``|q|^2 = n sum s^(2/n)``.
    """
    torch.manual_seed(3)
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    model = nn.Sequential(*layers).double()
    for layer in layers:
        layer.weight.data *= (
            torch.logspace(0, -1, len(layer.weight))[:, None].double() ** -torch.tensor(condition).log10()
        )
    batch = torch.randn(24, widths[0]).double(), torch.randint(0, widths[-1], (24,))
    quotient, state = infer_symmetries(model, cross_entropy, batch), state_of(model)
    product = torch.linalg.multi_dot([layer.weight.detach() for layer in reversed(layers)])
    values = torch.linalg.svdvals(product - product.mean(0))
    values = values[values > 1e-13 * values[0]]
    least = len(layers) * float((values ** (2 / len(layers))).sum())
    for seed in range(2):
        moved = quotient.random_transform(state, torch.Generator().manual_seed(seed), 2.0)
        assert sweeps(quotient, moved) < MOST
        assert sweeps(quotient, {n: t.float() for n, t in moved.items()}) < MOST
        assert quotient.norm(quotient.balance(moved)) ** 2 == pytest.approx(least, rel=1e-9)
        assert quotient.distance(moved, state) < 1e-8 * quotient.norm(quotient.balance(state))
