"""Equal layers as one group: the same numbers as one layer after the other, and stacks only where all agree."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.acting import Acting
from shockwatch.symmetry.projection import HorizontalProjector
from tests.symmetry.cases import cross_entropy, state_of

LAYERS = 3


class Tower(nn.Module):
    """Equal pre-norm layers behind an embedding, with biases and ReLU, or without and with GELU."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        bias = kind == "relu"
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 12, 0.0, kind, batch_first=True, norm_first=True, bias=bias)
            for _ in range(LAYERS)
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h)).flatten(0, 1)


@functools.cache
def prepared(kind: str) -> tuple[Quotient, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Tower(kind).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    tokens = torch.randint(11, (5, 4))
    quotient = infer_symmetries(model, cross_entropy, (tokens, tokens.flatten()))
    return quotient, state_of(model)


def both(kind: str) -> tuple[Acting, Acting, dict[str, Tensor]]:
    quotient, state = prepared(kind)
    stacked, single = (Acting(quotient.groups, quotient.names, state, stack=s) for s in (True, False))
    return stacked, single, state


@pytest.mark.parametrize("kind", ["relu", "gelu"])
def test_every_layer_is_in_a_stack(kind: str) -> None:
    stacked, single, state = both(kind)
    inside = {name for names in stacked.layout.stacks.values() for name in names}
    assert inside == {name for name in state if name.startswith("layers.")}
    assert not single.layout.stacks
    groups = [sum(len(c) for c in acting.components) for acting in (stacked, single)]
    assert groups[0] < groups[1]


@pytest.mark.parametrize("kind", ["relu", "gelu"])
def test_balance_and_alignment_agree(kind: str) -> None:
    stacked, single, state = both(kind)
    quotient = prepared(kind)[0]
    other = quotient.random_transform(state, torch.Generator().manual_seed(1), 0.3)
    results = []
    for acting in (stacked, single):
        point, reference = acting.layout.pack(state), acting.layout.pack(other)
        acting.balance_(point)
        acting.balance_(reference)
        acting.align_(point, reference)
        results.append(point)
    assert quotient.euclidean(dict(results[0]), dict(results[1])) < 1e-10 * quotient.norm(results[0])


@pytest.mark.parametrize("kind", ["relu", "gelu"])
def test_projection_agrees(kind: str) -> None:
    stacked, single, state = both(kind)
    quotient = prepared(kind)[0]
    point = quotient.canonicalize(state)
    generator = torch.Generator().manual_seed(0)
    tangent = {
        n: torch.randn(point[n].shape, generator=generator, dtype=torch.float64) for n in quotient.names
    }
    for often in (True, False):
        parts = []
        for acting in (stacked, single):
            here = acting.layout.pack(point)
            project = HorizontalProjector(acting.components, acting.layout, here, factorise=often)
            parts.append(project(tangent))
            assert project.vertical_norm(parts[-1]) < 1e-9
        assert quotient.euclidean(*parts) < 1e-9 * quotient.norm(tangent)


@pytest.mark.parametrize("kind", ["relu", "gelu"])
def test_numbers_of_single_layers_agree(kind: str) -> None:
    stacked, single, state = both(kind)
    rows = []
    for acting in (stacked, single):
        packed = acting.layout.pack(state).stacks
        found = acting.read(lambda g, at=packed: {**g.invariants(at), "imbalance": g.imbalance(at)})  # type: ignore[misc]
        rows.append({group.name: row for group, row in found})
    assert set(rows[0]) == set(rows[1])
    for group, values in rows[0].items():
        assert values == pytest.approx(rows[1][group], rel=1e-9, nan_ok=True), group


def test_a_layer_that_differs_is_in_no_stack() -> None:
    """A chain scales across its layers, and one tower has a layer with frozen weights: neither can be stacked."""
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).double()
    batch = torch.randn(9, 6).double(), torch.randint(6, (9,))
    quotient = infer_symmetries(model, cross_entropy, batch)
    assert not Acting(quotient.groups, quotient.names, state_of(model)).layout.stacks
    tower = Tower("relu").double()
    tower.layers[1].linear1.weight.requires_grad_(False)
    tokens = torch.randint(11, (5, 4))
    quotient = infer_symmetries(tower, cross_entropy, (tokens, tokens.flatten()))
    stacks = Acting(quotient.groups, quotient.names, state_of(tower)).layout.stacks
    assert not any("linear1" in key for key in stacks)
