"""A run of Adam, watched: when its transition comes is told ahead, in steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from shockwatch import ShockMonitor
from shockwatch.engine import look as module

_RANDOM = torch.Generator().manual_seed(0)
_LEFT, _RIGHT = (torch.linalg.qr(torch.randn(6, 6, generator=_RANDOM, dtype=torch.float64)).Q for _ in "ab")
BATCH = torch.eye(6, dtype=torch.float64)
TARGET = _LEFT[:, :2] @ torch.diag(torch.tensor([4.0, 3.0], dtype=torch.float64)) @ _RIGHT[:, :2].T


def loss_fn(net: nn.Module, batch: Tensor) -> Tensor:
    return 0.5 * (net(batch) - TARGET).square().sum()


class Seen:
    """A run of a deep linear network from a small start: gradient norms, and the values of every probe."""

    def __init__(self, steps: int = 200, **monitor: object) -> None:
        random = torch.Generator().manual_seed(1)
        self.net = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(2))).double()
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(0.01 * torch.randn(6, 6, generator=random, dtype=torch.float64))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=3e-3, weight_decay=0.01)
        self.norms: list[float] = []
        self.values: dict[int, dict[str, float]] = {}
        self.monitor = ShockMonitor(self.net, loss_fn, self.optimizer, every_n_steps=10, probe=1, **monitor)
        for step in range(1, steps + 1):
            self.optimizer.zero_grad()
            loss = loss_fn(self.net, BATCH)
            loss.backward()
            self.norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in self.net.parameters())))
            self.optimizer.step()
            self.monitor.step(BATCH, loss)
            if step % 10 == 0:
                assert self.monitor._session.settle(30.0)
                self.monitor._publish()
                self.values[step] = dict(self.monitor.values)
        self.monitor.close()


def test_the_transition_is_told_ahead_and_silence_follows():
    run = Seen()
    peak = max(range(len(run.norms)), key=run.norms.__getitem__)
    told = {s: v for s, v in run.values.items() if math.isfinite(v["shock/arrival_steps"])}
    early = [s for s in told if s <= peak - 20]
    assert len(early) >= 3
    for step in early:
        values = told[step]
        assert step + values["shock/arrival_steps"] == pytest.approx(peak, abs=3)
        assert values["shock/arrival_error"] > 0.0
    assert told[early[-1]]["shock/proximity"] > 1.0
    after = [v for s, v in run.values.items() if s > peak + 10]
    assert after
    assert all(math.isnan(v["shock/arrival_steps"]) and v["shock/proximity"] == 0.0 for v in after)
    assert all(math.isnan(v["shock/steps"]) for v in run.values.values()), "tau* has no clock in steps"
    assert any(alert.name == "transition ahead" for alert in run.monitor.alerts)
    assert run.values[200]["shock/forecast_score"] < 0.5
    assert run.values[200]["shockwatch/errors"] == 0.0


def test_a_look_ahead_that_fails_costs_its_own_values_only(monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no path")

    monkeypatch.setattr(module, "adam_path", fail)
    with pytest.warns(UserWarning, match="no path"):
        run = Seen(20)
    values = run.values[20]
    assert math.isnan(values["shock/arrival_steps"])
    assert values["shock/proximity"] == 0.0
    assert values["shock/lambda_max"] > 0.0
    assert values["shockwatch/errors"] == 3.0


def test_the_sightings_survive_a_checkpoint():
    run = Seen(30)
    state = run.monitor.state_dict()
    shock = state["analysis"]["shock"]
    assert [sighting["step"] for sighting in shock["lookahead"]["sightings"]][-1] == 30
    fresh = ShockMonitor(run.net, loss_fn, run.optimizer, every_n_steps=10, probe=1)
    fresh.load_state_dict(state)
    for _ in range(10):
        run.optimizer.zero_grad()
        loss_fn(run.net, BATCH).backward()
        run.optimizer.step()
        fresh.step(BATCH)
    fresh.close()
    assert fresh.values["shock/proximity"] > 1.0, "the countdown goes on, it does not begin anew"
    again = fresh.state_dict()["analysis"]["shock"]["lookahead"]["sightings"]
    assert len(again) >= 3
