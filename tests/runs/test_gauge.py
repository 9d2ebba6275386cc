"""The whole pipeline in two gauges: what must not move, does not; what may, does."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.engine import Engine
from shockwatch.snapshot import Snapshot
from shockwatch.symmetry import infer_symmetries
from tests.runs.modules import NETWORKS, data

STEPS, EVERY, LR = 30, 10, 0.05


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def record(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor], list[dict[str, Tensor]]]:
    """A short run in float64 and its parameters every ten steps."""
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    x, y = next(iter(data(name)))
    batch = (x.double() if x.is_floating_point() else x, y)
    optimizer = torch.optim.SGD(model.parameters(), LR)
    states = []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            tensors = (*model.named_parameters(), *model.named_buffers())
            states.append({n: t.detach().clone() for n, t in tensors if t.is_floating_point()})
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    return model, batch, states


def watch(model: nn.Module, batch: object, states: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    engine = Engine.build(model, loss_fn, batch, horizon=200, seed=0, probe=True)
    return [
        engine.process(Snapshot(k * EVERY, state, k * EVERY * LR, LR, LR, 1.0), True).values
        for k, state in enumerate(states)
    ]


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
@pytest.mark.parametrize("seed", [0, 1])
def test_only_raw_tags_see_the_gauge(name: str, seed: int) -> None:
    model, batch, states = record(name)
    quotient = infer_symmetries(model, loss_fn, batch)
    generator = torch.Generator().manual_seed(seed)
    moved = [quotient.random_transform(state, generator) for state in states]
    for state, other in zip(states, moved, strict=True):
        assert abs(quotient.norm(other) / quotient.norm(state) - 1) > 0.1
    for here, there in zip(watch(model, batch, states), watch(model, batch, moved), strict=True):
        assert set(here) == set(there)
        for tag, value in here.items():
            if not tag.startswith(("quotient/", "shock/", "block/", "phase/")):
                continue
            if math.isnan(value):
                assert math.isnan(there[tag]), tag
            else:
                assert there[tag] == pytest.approx(value, rel=1e-6, abs=1e-12), tag
        assert there["raw/norm"] != pytest.approx(here["raw/norm"], rel=0.1)
