"""What Adam holds travels with a snapshot that may be probed, and nothing else does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from shockwatch import ShockMonitor
from shockwatch.alerts import AlertManager
from shockwatch.capture import Capture, Slot, named_state
from shockwatch.clock import TrainingClock
from shockwatch.curvature import adam_stability
from shockwatch.moments import adam_moments
from shockwatch.session import Session, Settings, build_engine
from tests.engine.shockwatch_fakes import FakeAnalysis

Optimizers = list[torch.optim.Optimizer]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def loss_fn(net: nn.Module, batch: Tensor) -> Tensor:
    return net(batch).square().mean()


BATCH = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def step(net: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    net.zero_grad()
    loss_fn(net, BATCH).backward()
    for optimizer in optimizers:
        optimizer.step()


def filled(net: nn.Module, optimizers: Optimizers, slot: Slot | None = None) -> tuple[Capture, Slot]:
    capture = Capture(lambda: named_state(net))
    slot = slot or capture.acquire()
    assert slot is not None
    capture.fill(slot, None, optimizers)
    return capture, slot


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_copy_is_that_moments_own(kind, amsgrad):
    net = model()
    groups = [
        {"params": net[0].parameters(), "lr": 0.1},
        {"params": net[2].parameters(), "betas": (0.5, 0.9), "weight_decay": 0.2},
    ]
    optimizer = kind(groups, amsgrad=amsgrad, eps=1e-6)
    for _ in range(3):
        step(net, optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    _, slot = filled(net, [optimizer])
    held = slot.moments
    assert held is not None
    assert list(held) == [name for name, _ in net.named_parameters()]
    for index, entry in before["state"].items():
        mine = list(held.values())[index]
        assert torch.equal(mine.mean, entry["exp_avg"])
        assert torch.equal(mine.square, entry["exp_avg_sq"])
        assert (mine.largest is not None) is amsgrad
        assert not amsgrad or torch.equal(mine.largest, entry["max_exp_avg_sq"])
        assert mine.steps == 3.0
    coupled = kind is torch.optim.Adam
    last = held["2.bias"]
    assert (last.first, last.second, last.eps) == (0.5, 0.9, 1e-6)
    assert (last.coupled, last.decoupled) == ((0.2, 0.0) if coupled else (0.0, 0.2))
    assert held["0.bias"].rate == 0.1
    kept = {name: m.square.clone() for name, m in held.items()}
    step(net, optimizer)
    assert all(torch.equal(held[name].square, kept[name]) for name in kept), "private, not live"


def test_nothing_of_the_optimiser_changes_by_being_read():
    net = model()
    net[0].bias.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())
    step(net, optimizer)
    before, entries = copy.deepcopy(optimizer.state_dict()), len(optimizer.state)
    filled(net, [optimizer])
    after = optimizer.state_dict()
    assert len(optimizer.state) == entries, "no entry is made for what has no state"
    assert before["param_groups"] == after["param_groups"]
    for index, entry in before["state"].items():
        assert all(torch.equal(value, after["state"][index][key]) for key, value in entry.items())


def test_buffers_follow_a_state_that_comes_late_and_are_kept_otherwise():
    net = model()
    optimizer = torch.optim.Adam(net[0].parameters())
    step(net, optimizer)
    capture, slot = filled(net, [optimizer])
    assert slot.moments is not None
    assert list(slot.moments) == ["0.weight", "0.bias"]
    pointers = [t.data_ptr() for t in slot.beside]
    capture.fill(slot, None, [optimizer])
    assert [t.data_ptr() for t in slot.beside] == pointers
    optimizer.add_param_group({"params": list(net[2].parameters())})
    capture.fill(slot, None, [optimizer])
    assert slot.moments is not None
    assert list(slot.moments) == ["0.weight", "0.bias"], "the new group has not been stepped"
    step(net, optimizer)
    capture.fill(slot, None, [optimizer])
    assert slot.moments is not None
    assert list(slot.moments) == [name for name, _ in net.named_parameters()]
    assert (slot.moments["0.bias"].steps, slot.moments["2.bias"].steps) == (2.0, 1.0)
    loaded = torch.optim.Adam(net.parameters())
    loaded.load_state_dict(torch.optim.Adam(net.parameters()).state_dict())
    capture.fill(slot, None, [loaded])
    assert slot.moments is None, "a fresh state holds nothing"
    capture.release(slot)
    assert slot.moments is None


class _Renamed(torch.optim.Adam):
    def step(self, closure=None):  # type: ignore[override]
        super().step(closure)
        for entry in self.state.values():
            entry["momentum"] = entry.pop("exp_avg", None)


class _Own(torch.optim.AdamW):
    """Keeps the names."""


def test_only_what_torch_calls_adam_is_read():
    net = model()
    for kind, read in ((_Own, True), (torch.optim.SGD, False), (torch.optim.NAdam, False), (_Renamed, False)):
        optimizer = kind(net.parameters(), lr=1e-3)
        step(net, optimizer)
        assert (adam_moments(named_state(net), [optimizer]) is not None) is read, kind
    first = torch.optim.Adam(net[0].parameters())
    second = torch.optim.SGD(net[2].parameters(), lr=0.1)
    step(net, first, second)
    assert adam_moments(named_state(net), [first, second]) is None, "trained by two kinds"
    third = torch.optim.Adam(net[2].parameters())
    step(net, third)
    held = adam_moments(named_state(net), [first, third])
    assert held is not None
    assert len(held) == 4
    uphill = torch.optim.Adam(net.parameters(), maximize=True)
    step(net, uphill)
    assert adam_moments(named_state(net), [uphill]) is None
    broken = torch.optim.Adam(net.parameters())
    step(net, broken)
    broken.state[net[0].weight]["exp_avg"] = torch.zeros(1)
    assert adam_moments(named_state(net), [broken]) is None


def taken(probe, analysis: FakeAnalysis, optimizer_of=torch.optim.Adam, steps: int = 6) -> list[bool]:
    """Whether the snapshots of a run carried moments."""
    net = model()
    optimizer = optimizer_of(net.parameters(), lr=1e-3)
    clock = TrainingClock()
    clock.listen([optimizer])
    session = Session(Settings(1, probe=probe), AlertManager("default"), net, lambda: analysis)
    for count in range(1, steps + 1):
        step(net, optimizer)
        session.take(count, count, clock, None)
        session.settle(10.0)
    clock.stop()
    session.take(steps + 1, steps + 1, clock, None, last=True)
    session.close()
    return [snapshot.moments is not None for snapshot in analysis.snapshots]


def test_they_are_copied_only_where_a_probe_may_follow():
    assert taken(1, FakeAnalysis()) == [True] * 7, "the last one too, after the clock was stopped"
    assert taken("off", FakeAnalysis()) == [False] * 7
    assert taken(1, FakeAnalysis(), torch.optim.SGD) == [False] * 7
    analysis = FakeAnalysis()
    assert taken(3, analysis) == [True, False, False, True, False, False, True]
    assert analysis.probes == [1, 4, 7]
    deaf = FakeAnalysis()
    deaf.reads_moments = False
    assert taken(1, deaf) == [False] * 7
    dear = FakeAnalysis()
    dear.probe_seconds = 1e6
    assert taken("auto", dear)[1:] == [False] * 6


def run(optimizer_of, watched: bool) -> tuple[nn.Module, dict[str, float], torch.optim.Optimizer]:
    net = model()
    optimizer = optimizer_of(net.parameters())
    values: dict[str, float] = {}
    monitor = ShockMonitor(net, loss_fn, optimizer, every_n_steps=5, probe=1) if watched else None
    for _ in range(10):
        step(net, optimizer)
        if monitor is not None:
            monitor.step(BATCH)
    if monitor is not None:
        monitor.close()
        values = monitor.values
    return net, values, optimizer


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_watched_run_reads_its_edge_and_stays_bit_for_bit_what_it_was(kind):
    def make(parameters):
        return kind(parameters, lr=1e-2, weight_decay=0.1)

    alone, _, _ = run(make, watched=False)
    net, values, optimizer = run(make, watched=True)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), net.parameters(), strict=True))
    assert values["raw/lr_lambda_max"] == pytest.approx(
        adam_stability(net, loss_fn, BATCH, optimizer), rel=1e-2
    )
    assert values["shockwatch/errors"] == 0.0


def test_a_run_of_sgd_has_no_such_tag():
    _, values, _ = run(lambda parameters: torch.optim.SGD(parameters, lr=0.1), watched=True)
    assert "raw/lr_lambda_max" not in values
    assert values["shock/lr_lambda_max"] > 0.0


def test_who_reads_them():
    def reads(probe: bool = True, loss=loss_fn, **settings) -> bool:
        return build_engine(model(), loss, BATCH, Settings(**settings), probe).reads_moments

    assert reads()
    assert not reads(probe=False)
    assert not reads(memory="sketch"), "memory is short there"
    assert not reads(loss=None), "no loss, no probe"
