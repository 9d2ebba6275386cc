from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from shockwatch import session
from shockwatch.monitor import ShockMonitor
from tests.engine.shockwatch_fakes import FakeAnalysis


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    out: Tensor = model(batch).square().mean()
    return out


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAnalysis:
    analysis = FakeAnalysis(proximity=1.5)

    def build(model: nn.Module, loss: Any, batch: Any, settings: Any, probe: bool) -> FakeAnalysis:
        torch.rand(7)
        loss(model, batch).backward()
        return analysis

    monkeypatch.setattr(session, "build_engine", build)
    return analysis


def train(steps: int, monitored: bool, **options: Any) -> tuple[nn.Module, ShockMonitor | None]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    monitor = ShockMonitor(model, loss_fn, optimizer, **options) if monitored else None
    for _ in range(steps):
        batch = torch.randn(6, 4)
        loss = loss_fn(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(batch, loss)
    if monitor is not None:
        monitor.close()
    return model, monitor


def test_watches_a_plain_loop(fake: FakeAnalysis, tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    _, monitor = train(23, True, every_n_steps=5, probe=2, writer=writer)
    writer.close()
    assert monitor is not None
    assert fake.steps[0] == 1
    assert fake.steps[-1] == 23
    assert set(fake.steps) <= {1, 5, 10, 15, 20, 23}
    assert fake.snapshots[-1].training_time == pytest.approx(23 * 0.2)
    assert fake.snapshots[-1].time_per_step == pytest.approx(0.2)
    assert monitor.values["shock/proximity"] == 1.5
    assert math.isfinite(monitor.values["shockwatch/overhead"])
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("raw/norm")] == fake.steps


def test_parameters_are_bit_identical(fake: FakeAnalysis) -> None:
    plain, _ = train(20, False)
    watched, _ = train(20, True, every_n_steps=1, probe=1)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), watched.buffers(), strict=True))


def test_resumes(fake: FakeAnalysis) -> None:
    _, monitor = train(10, True, every_n_steps=5)
    assert monitor is not None
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ShockMonitor(model, loss_fn, optimizer, every_n_steps=5) as twin:
        twin.load_state_dict(monitor.state_dict())
        loss_fn(model, torch.ones(2, 4)).backward()
        optimizer.step()
        twin.step(torch.ones(2, 4))
        with pytest.raises(RuntimeError, match="before the first step"):
            twin.load_state_dict(monitor.state_dict())
    assert fake.steps[-1] == 11
    with pytest.raises(RuntimeError, match="closed"):
        twin.step(torch.ones(2, 4))


def test_a_failing_writer_is_let_go(fake: FakeAnalysis) -> None:
    class Full:
        def add_scalar(self, *args: Any) -> None:
            raise OSError("disk full")

        def add_text(self, *args: Any) -> None: ...

        def add_custom_scalars(self, *args: Any) -> None:
            raise OSError("disk full")

    with pytest.warns(session.ShockwatchWarning, match="disk full") as caught:
        _, monitor = train(12, True, every_n_steps=5, writer=Full())
    assert len(caught) == 1
    assert monitor is not None
    assert monitor.values["raw/norm"] > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": 3}, "model=int"),
        ({"loss_fn": None}, "loss_fn=None"),
        ({"optimizer": "sgd"}, "optimizer=str"),
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"writer": object()}, "writer=object"),
    ],
)
def test_arguments_are_validated(options: dict[str, Any], says: str) -> None:
    model = nn.Linear(2, 2)
    arguments: dict[str, Any] = {
        "model": model,
        "loss_fn": loss_fn,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    with pytest.raises(ValueError, match=says):
        ShockMonitor(**(arguments | options))
