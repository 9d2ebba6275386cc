"""What the analysis reads while training goes on."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from shockwatch.capture import named_state
from shockwatch.engine import Engine
from shockwatch.engine.engine import PROBE_GRADIENTS
from shockwatch.replica import private_copy
from shockwatch.snapshot import Snapshot
from shockwatch.tracing import StepLoss
from tests.symmetry.cases import BY_NAME


def test_groups_are_measured_on_the_snapshot_not_on_the_live_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training moves the live tensors between one measurement and the next."""
    case = BY_NAME["mlp"]
    live = case.model()
    engine = Engine.build(private_copy(live), case.loss, case.data(), horizon=200, seed=0, probe=False)
    state = {name: tensor.detach().clone() for name, tensor in named_state(live).items()}
    measure = StepLoss.streamed_value

    def train_and_measure(self: StepLoss, *args: Any) -> float:
        with torch.no_grad():
            for parameter in live.parameters():
                parameter.add_(0.01)
        return measure(self, *args)

    monkeypatch.setattr(StepLoss, "streamed_value", train_and_measure)
    engine.process(Snapshot(1, state, 0.1, 0.1, 0.1, 1.0), probe=False)
    assert engine.quotient.dim == sum(case.dims.values())


def test_the_first_snapshot_tells_what_is_degenerate() -> None:
    """Once, and the run is watched: an adapter at zero has no norm on the quotient and no gradient there."""
    case = BY_NAME["low rank"]
    model = case.model()
    engine = Engine.build(private_copy(model), case.loss, case.data(), horizon=200, seed=0, probe=True)
    state = {name: tensor.detach().clone() for name, tensor in named_state(model).items()}
    state["b.weight"].zero_()
    first = engine.process(Snapshot(0, state, 0.0, 0.1, 0.1, 1.0), probe=True)
    assert first.error is None
    assert any("1 of a-b" in note for note in first.notes)
    assert first.values["quotient/norm"] == 0
    assert first.values["shock/lambda_min"] < 0
    state["b.weight"] += 1e-12
    second = engine.process(Snapshot(1, state, 0.1, 0.1, 0.1, 1.0), probe=True)
    assert second.error is None
    assert not any("a-b" in note for note in second.notes)
    assert 0 < second.values["quotient/speed"] == second.values["quotient/norm"] < 1e-4


def test_what_a_probe_will_take_is_told_from_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["mlp"]
    gradient = StepLoss.gradient

    def slow(self: StepLoss, *args: Any) -> Any:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return gradient(self, *args)

    monkeypatch.setattr(StepLoss, "gradient", slow)
    for probe in (True, False):
        model = case.model()
        engine = Engine.build(private_copy(model), case.loss, case.data(), horizon=200, seed=0, probe=probe)
        engine.prepare(Snapshot(0, named_state(model), 0.0, 0.1, 0.1, 1.0))
        # where none will be made it is not asked
        assert (engine.probe_seconds >= PROBE_GRADIENTS * 0.02) is probe


@pytest.mark.parametrize("room", [0, 60])
def test_a_gradient_that_fails_costs_no_symmetry_and_is_not_tried_without_room(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    tried = []

    def hungry(self: StepLoss, *_: Any) -> Any:
        tried.append(self)
        raise torch.OutOfMemoryError("no memory for a gradient")

    monkeypatch.setattr(StepLoss, "gradient", hungry)
    monkeypatch.setattr("shockwatch.engine.engine.products_within", lambda size: room)
    case = BY_NAME["mlp"]
    model = case.model()
    engine = Engine.build(private_copy(model), case.loss, case.data(), horizon=200, seed=0, probe=True)
    snapshot = Snapshot(0, named_state(model), 0.0, 0.1, 0.1, 1.0)
    engine.prepare(snapshot)
    assert engine.quotient.dim == sum(case.dims.values())
    assert engine.probe_seconds == 0.0
    assert engine.process(snapshot, probe=False).error is None
    assert len(tried) == (room > 0)
