"""Groups checked by running the module: how often it runs, and what happens when that is too often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.symmetry import infer_symmetries, paths
from shockwatch.tracing.step import PrivateStep

Batch = tuple[Tensor, Tensor]


def net() -> nn.Module:
    torch.manual_seed(0)
    blocks = [part for _ in range(4) for part in (nn.Linear(6, 6), nn.ReLU())]
    return nn.Sequential(*blocks, nn.Linear(6, 2))


def loss_fn(model: Any, batch: Batch) -> Tensor:
    """A branch on the batch; on the other side the scale of the second layer counts, and no other."""
    loss = F.mse_loss(model(batch[0]), batch[1])
    return loss + model[2].weight.square().sum() if bool(batch[0].sum() < 0) else loss


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    value = PrivateStep.value

    def counting(self: PrivateStep, *arguments: Any) -> float:
        counted.append(1)
        return value(self, *arguments)

    monkeypatch.setattr(PrivateStep, "value", counting)
    return counted


BATCH = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)), torch.zeros(4, 2)


def scalings(quotient: Any) -> set[str]:
    return {group.name for group in quotient.groups if group.kind == "positive scaling"}


# what it takes to see whether the path follows the parameters
TRACE = 3


def test_the_groups_that_fail_elsewhere_are_told_apart_from_those_that_hold(runs: list[int]) -> None:
    straight = infer_symmetries(net(), lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), BATCH)
    branching = infer_symmetries(net(), loss_fn, BATCH)
    assert scalings(straight) == {"0-2", "2-4", "4-6", "6-8"}
    # both neighbours of the layer whose scale counts may only move together
    assert scalings(branching) == {"0-4", "4-6", "6-8"}
    assert {g.name for g in branching.groups if g.kind == "permutation"} == {"0", "2", "4", "6"}
    # one by one: twelve groups, fourteen runs each
    assert len(runs) < 12 * 14 / 2


def test_groups_that_hold_cost_one_question(runs: list[int]) -> None:
    def twice(model: Any, batch: Batch) -> Tensor:
        loss = F.mse_loss(model(batch[0]), batch[1])
        return 2.0 * loss if bool(batch[0].sum() < 0) else loss

    quotient = infer_symmetries(net(), twice, BATCH)
    assert len(quotient.groups) > 4
    # the loss of seven batches, and two elements on each of them
    assert len(runs) == TRACE + 7 + 14


def test_a_check_that_would_take_too_long_refuses_what_it_has_not_seen(
    runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_RUNS", 10)
    with pytest.warns(UserWarning, match="after 10 runs of the module"):
        quotient = infer_symmetries(net(), loss_fn, BATCH)
    assert not quotient.groups
    assert len(runs) == TRACE + 10
