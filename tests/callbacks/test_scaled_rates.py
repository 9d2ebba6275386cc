"""The rate each step uses is the scheduler's closed form times the factor, and afterwards the scheduler's alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import lr_scheduler

from shockwatch.callbacks import ShockLRController, ShockWatch
from shockwatch.callbacks._scaled_step import ScaledStep
from shockwatch.callbacks.lr_controller import next_factor
from shockwatch.snapshot import Observation, Snapshot
from tests.callbacks.lightning_cases import Fit
from tests.engine.shockwatch_fakes import FakeAnalysis

RATES = (0.1, 0.02)
STEPS, EVERY, PER_EPOCH = 20, 2, 5


class Recording(torch.optim.SGD):
    """Notes the rates with which the parameters really move; torch calls step hooks twice for such a subclass."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, lr=1.0)
        self.used: list[list[float]] = []
        self.fails_at: set[int] = set()

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        self.used.append([group["lr"] for group in self.param_groups])
        result = super().step(closure)
        if len(self.used) in self.fails_at:
            raise FloatingPointError("in the step")
        return result


class Two(L.LightningModule):
    """Two parameter groups, no random numbers, a scheduler of the test's choice."""

    def __init__(self, make: Callable[[Any], Any] | None, interval: str, catch: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        self.make, self.interval, self.catch = make, interval, catch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        # the same data at every step: Lightning does not resume a loader in mid-epoch
        inputs = torch.linspace(-1.0, 1.0, 48).reshape(8, 6)
        loss = nn.functional.cross_entropy(self.net(inputs), torch.arange(8) % 3)
        self.log("flat", torch.tensor(1.0), on_step=True, on_epoch=True)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().optimizer_step(*args, **kwargs)
        except FloatingPointError:
            if not self.catch:
                raise

    def configure_optimizers(self) -> Any:
        layers = (self.net[0], self.net[2])
        optimizer = Recording(
            [{"params": layer.parameters(), "lr": rate} for layer, rate in zip(layers, RATES, strict=True)]
        )
        if self.make is None:
            return optimizer
        config = {"scheduler": self.make(optimizer), "interval": self.interval, "monitor": "flat"}
        return {"optimizer": optimizer, "lr_scheduler": config}


class Hold(L.Callback):
    """Stands before the watch: what it takes in this batch is not ready in this batch."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate

    def on_train_batch_end(self, *args: Any) -> None:
        self.gate.clear()


class Settle(L.Callback):
    """Stands after the watch, and waits: what is decided, and when, hangs on no clock."""

    def __init__(self, watch: ShockWatch, gate: threading.Event) -> None:
        self.watch, self.gate = watch, gate

    def on_train_batch_end(self, *args: Any) -> None:
        self.gate.set()
        if self.watch._session is not None:
            assert self.watch._session.settle(30)


class Outside(L.Callback):
    """The rates as everything but the step sees them."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def proximity(step: int) -> float:
    """Four times the target at step 4, just the target while the rate is lowered for it, far from step 10 on."""
    return 2.0 if step == 4 else 0.5 if 4 < step < 10 else 0.1


@pytest.fixture
def analysis(fake: FakeAnalysis, monkeypatch: pytest.MonkeyPatch) -> FakeAnalysis:
    process = fake.process

    def at(snapshot: Snapshot, probe: bool) -> Observation:
        fake.proximity = proximity(snapshot.step)
        return process(snapshot, probe)

    monkeypatch.setattr(fake, "process", at)
    fake.gate = threading.Event()
    return fake


def factors(target: float = 0.5) -> list[float]:
    """The factor of each step: a snapshot is published one step later and decides on the one after."""
    used = [1.0]  # used[k] is that of step k; no step 0
    current = 1.0
    for step in range(1, STEPS + 1):
        taken = step - 2
        if taken == 1 or (taken > 1 and taken % EVERY == 0):
            current = next_factor(current, proximity(taken) / target, used[taken])
        used.append(current)
    return used[1:]


def cosine(rate: float, k: int, period: int = 16, low: float = 1e-3) -> float:
    return low + (rate - low) * (1 + math.cos(math.pi * k / period)) / 2


def one_cycle(rate: float, k: int) -> float:
    """The default of torch over 40 steps: up from a 25th for 30 % of them, then down to that over 1e4; cosines."""
    top, start, end, up = 2 * rate, 2 * rate / 25, 2 * rate / 25e4, 0.3 * 40 - 1
    a, b, share = (start, top, k / up) if k <= up else (top, end, (k - up) / (39 - up))
    return b + (a - b) * (1 + math.cos(math.pi * share)) / 2


SCHEDULERS: dict[str, tuple[Callable[[Any], Any], Callable[[float, int], float]]] = {
    "step": (lambda o: lr_scheduler.StepLR(o, 3, 0.5), lambda rate, k: rate * 0.5 ** (k // 3)),
    "exponential": (lambda o: lr_scheduler.ExponentialLR(o, 0.9), lambda rate, k: rate * 0.9**k),
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 16, 1e-3), cosine),
    "one cycle": (lambda o: lr_scheduler.OneCycleLR(o, [2 * r for r in RATES], 40), one_cycle),
    "warm-up": (
        lambda o: lr_scheduler.LambdaLR(o, lambda k: min(1.0, (k + 1) / 8)),
        lambda rate, k: rate * min(1.0, (k + 1) / 8),
    ),
    # a metric that never moves: the first call sets the best, and every third one after it lowers the rate
    "plateau": (
        lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=2),
        lambda rate, k: rate * 0.5 ** (max(k - 1, 0) // 3),
    ),
}


def run(
    fit: Fit,
    analysis: FakeAnalysis,
    module: Two,
    control: ShockLRController,
    *more: L.Callback,
    first: bool = False,
    **options: Any,
) -> L.Trainer:
    """Fit, the controller before or after the watch, with an analysis that answers at the next batch."""
    watch, gate = ShockWatch(every_n_steps=EVERY, horizon=EVERY, probe=1), analysis.gate
    assert gate is not None
    watched = [Hold(gate), watch, Settle(watch, gate)]
    callbacks = [control, *watched, *more] if first else [*watched, control, *more]
    epochs = {"max_epochs": STEPS // PER_EPOCH, "limit_train_batches": PER_EPOCH}
    trainer, _ = fit(callbacks, module, **(epochs | options))
    return trainer


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_used_rate_is_closed_form_times_factor(
    fit: Fit, analysis: FakeAnalysis, name: str, interval: str, dry_run: bool
) -> None:
    make, closed = SCHEDULERS[name]
    outside, control = Outside(), ShockLRController(target=0.5, dry_run=dry_run)
    trainer = run(fit, analysis, Two(make, interval), control, outside)
    optimizer = trainer.optimizers[0]
    counts = [k if interval == "step" else k // PER_EPOCH for k in range(STEPS)]
    for seen, k in zip(outside.seen, counts, strict=True):
        assert seen == pytest.approx([closed(rate, k) for rate in RATES], rel=1e-9)
    expected = [1.0] * STEPS if dry_run else factors()
    assert dry_run or (min(expected) == 0.25 and expected[0] == expected[-1] == 1.0)
    # to the last bit: nothing but the factor comes between the scheduler and the step
    assert optimizer.used == [
        [rate * f for rate in seen] for seen, f in zip(outside.seen, expected, strict=True)
    ]
    assert control.factor == factors()[-1]


def test_nothing_is_left_on_the_optimizer(fit: Fit, analysis: FakeAnalysis) -> None:
    trainer = run(fit, analysis, Two(None, "step"), ShockLRController(target=0.5))
    assert "step" not in trainer.optimizers[0].__dict__


@pytest.mark.parametrize("first", [False, True], ids=["watch first", "controller first"])
def test_a_run_resumed_in_mid_intervention_goes_on_to_the_last_bit(
    fit: Fit, analysis: FakeAnalysis, tmp_path: Path, first: bool
) -> None:
    def part(**options: Any) -> tuple[Two, list[list[float]]]:
        module = Two(SCHEDULERS["cosine"][0], "step")
        save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=9, save_top_k=-1)
        options = {"max_steps": STEPS, "max_epochs": -1, "enable_checkpointing": True} | options
        trainer = run(fit, analysis, module, ShockLRController(target=0.5), save, first=first, **options)
        return module, trainer.optimizers[0].used

    whole, used = part()
    path = (tmp_path / "step=9.ckpt").rename(tmp_path / "middle.ckpt")
    saved = torch.load(path, weights_only=True)["callbacks"]["ShockLRController"]
    assert saved["factor"] < 0.5
    resumed, rest = part(ckpt_path=path)
    assert rest == used[9:]
    assert rest[0] == pytest.approx([saved["factor"] * cosine(rate, 9) for rate in RATES])
    assert rest[-1] == pytest.approx([cosine(rate, 19) for rate in RATES])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_what_is_published_while_saving_is_decided_on_after_a_resume(
    fit: Fit, analysis: FakeAnalysis, tmp_path: Path
) -> None:
    """The snapshot of step 4, the first one near, is still in work when the checkpoint of step 4 is written."""
    control = ShockLRController(target=0.5)
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    run(
        fit, analysis, Two(None, "step"), control, save, max_steps=5, max_epochs=-1, enable_checkpointing=True
    )
    state = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["callbacks"]["ShockLRController"]
    assert state["factor"] == 1.0
    assert [entry[:3] for entry in state["pending"]] == [[4, 3, 4.0]]  # the logger counts from 0


@pytest.mark.parametrize("catch", [False, True])
def test_a_step_that_raises_gives_the_rate_back(fit: Fit, analysis: FakeAnalysis, catch: bool) -> None:
    class Fails(Two):
        def configure_optimizers(self) -> Any:
            config = super().configure_optimizers()
            config["optimizer"].fails_at = {8}
            return config

    module, outside = Fails(SCHEDULERS["exponential"][0], "step", catch), Outside()
    if not catch:
        with pytest.raises(FloatingPointError):
            run(fit, analysis, module, ShockLRController(target=0.5), outside)
    else:
        run(fit, analysis, module, ShockLRController(target=0.5), outside)
    optimizer: Any = module.trainer.optimizers[0]
    assert optimizer.used[7] == [rate * 0.25 for rate in outside.seen[7]], "it was lowered when it failed"
    if not catch:
        assert [group["lr"] for group in optimizer.param_groups] == outside.seen[7]
        return
    # a chained scheduler would carry a lowered rate on
    for k, seen in enumerate(outside.seen):
        assert seen == pytest.approx([rate * 0.9**k for rate in RATES], rel=1e-9)


def test_a_rate_written_during_the_step_stays() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = Recording([{"params": [weight], "lr": 0.1}])
    scaled = ScaledStep(optimizer, lambda: 0.5)

    def closure() -> None:
        optimizer.param_groups[0]["lr"] = 0.7

    optimizer.step(closure)
    assert optimizer.used == [[0.05]]
    assert optimizer.param_groups[0]["lr"] == 0.7
    scaled.release()


def test_a_rate_in_a_tensor_is_the_same_tensor_afterwards() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=rate)
    scaled = ScaledStep(optimizer, lambda: 0.5)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.1)
    scaled.release()


def test_a_scheduler_made_later_stays_when_the_factor_is_released() -> None:
    optimizer = Recording([{"params": [nn.Parameter(torch.ones(1))], "lr": 0.1}])
    scaled = ScaledStep(optimizer, lambda: 0.5)
    schedule = lr_scheduler.StepLR(optimizer, 1, 0.1)
    optimizer.step()
    schedule.step()
    scaled.release()
    optimizer.step()
    assert [used[0] for used in optimizer.used] == pytest.approx([0.05, 0.01])
    assert optimizer._opt_called
