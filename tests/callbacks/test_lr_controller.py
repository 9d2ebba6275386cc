from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger

from shockwatch.callbacks import ShockLRController, ShockWatch
from shockwatch.callbacks.lr_controller import SMALLEST_FACTOR, load, next_factor, noisy_load
from shockwatch.snapshot import Observation, Snapshot
from tests.callbacks.lightning_cases import Fit, Net
from tests.engine.shockwatch_fakes import FakeAnalysis


class Slow(L.Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(0.01)


def test_load_is_the_worse_of_two_bounds() -> None:
    assert load({"shock/proximity": 1.0}, 0.1, 0.5, True, 5, 5) == 2.0
    assert load({"shock/proximity": 0.1, "shock/lambda_max": 30.0}, 0.1, 0.5, True, 5, 5) == pytest.approx(
        3.0
    )
    assert load({"shock/proximity": 0.1, "shock/lr_lambda_max": 3.0}, 9.0, 0.5, True, 5, 5) == pytest.approx(
        3.0
    )
    assert load({"shock/proximity": 0.1, "shock/lambda_max": 30.0}, 0.1, 0.5, False, 5, 5) == 0.0
    assert math.isnan(load({"raw/norm": 1.0}, 0.1, 0.5, True, 5, 5))


def test_a_transition_must_not_outrun_the_watch_nor_be_put_off_for_ever() -> None:
    def paced(arrival: float, lasts: float, interval: float) -> float:
        values = {"shock/proximity": 200 / arrival, "shock/arrival_steps": arrival, "shock/steps": lasts}
        return load(values, 0.1, 0.5, True, interval, horizon=200)

    assert paced(1.0, 10.0, 5.0) == pytest.approx(1.0), "it comes now, and lasts two measurements"
    assert paced(1.0, 10.0, 10.0) == pytest.approx(2.0)
    assert paced(40.0, 10.0, 20.0) == pytest.approx(1.0), "two measurements away"
    assert paced(500.0, 10.0, 300.0) == 0.0, "not near"
    assert load({"shock/proximity": 0.0, "shock/steps": 3.0}, 0.1, 0.5, True, 9, 9) == 0.0, "no evidence"
    # a bound on the arrival alone would be Zeno's: two measurements away at every measurement
    arrival, factor, steps = 50.0, 1.0, 0
    while arrival > 0.0:
        factor = next_factor(factor, paced(arrival / factor, 10.0 / factor, 10.0), factor)
        arrival, steps = arrival - 10.0 * factor, steps + 10
    assert steps < 110
    assert factor == pytest.approx(0.5)


def test_factor_goes_down_at_once_and_up_in_steps() -> None:
    assert next_factor(1.0, 4.0, 1.0) == 0.25
    assert next_factor(0.25, 1.0, 0.25) == 0.25
    assert next_factor(0.25, 4.0, 1.0) == 0.25, "a late measurement under the old factor changes nothing"
    assert next_factor(0.25, 0.1, 0.25) == pytest.approx(0.375)
    assert next_factor(0.9, 0.0, 0.9) == 1.0
    assert next_factor(1.0, math.inf, 1.0) == SMALLEST_FACTOR
    assert next_factor(0.3, math.nan, 1.0) == 0.3


def test_the_edge_of_small_batches_is_that_of_the_slow_time_and_counts_with_momentum_only() -> None:
    rate, momentum, curvature = 0.1, 0.9, 6.0
    values = {"shock/lambda_max": curvature, "shock/lr_lambda_max": rate / (1 + momentum) * curvature}
    at_edge = 2.0 * (1.0 - momentum) / curvature
    assert noisy_load(values, at_edge / (1.0 - momentum)) == pytest.approx(2.0), "half way is what is allowed"
    assert math.isnan(noisy_load({"shock/lambda_max": 6.0, "shock/lr_lambda_max": 0.6}, 0.1))
    assert math.isnan(noisy_load(values, math.nan))
    assert math.isnan(noisy_load({}, 1.0))


def test_closed_loop_settles_on_the_target() -> None:
    factor = 1.0
    for _ in range(10):
        factor = next_factor(factor, load({"shock/proximity": 2.0 * factor}, 0.1, 0.5, True, 5, 5), factor)
    assert factor * 2.0 == pytest.approx(0.5)


class Rates(L.Callback):
    """The learning rate as schedulers and loggers see it, and as the step used it."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.used: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.used.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_composes_with_a_scheduler_and_leaves_nothing_behind(
    fit: Fit, fake: FakeAnalysis, tmp_path: Path
) -> None:
    fake.proximity = 2.0
    rates, control = Rates(), ShockLRController(target=0.5)
    logger = CSVLogger(tmp_path)
    module = Net(scheduler=True)
    watch = ShockWatch(every_n_steps=2, horizon=2, probe=1000)
    fit([control, watch, Slow(), rates], module, logger=logger)
    assert control.factor == 0.25
    assert rates.seen == pytest.approx([0.05 * 0.9**k for k in range(1, 21)])
    assert rates.used[0] == 0.05
    assert rates.used[-1] == pytest.approx(0.25 * 0.05 * 0.9**19)
    assert fake.snapshots[-1].learning_rate == pytest.approx(rates.used[-1]), "the clock reads the real rate"
    assert "shockwatch/lr_factor" in (Path(logger.log_dir) / "metrics.csv").read_text()


def test_recovers_when_the_shock_has_passed(
    fit: Fit, fake: FakeAnalysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = fake.process

    def passing(snapshot: Snapshot, probe: bool) -> Observation:
        fake.proximity = 2.0 if snapshot.step < 6 else 0.0
        return process(snapshot, probe)

    monkeypatch.setattr(fake, "process", passing)
    rates, control = Rates(), ShockLRController(target=0.5)
    fit([ShockWatch(every_n_steps=2, horizon=2, probe=1), control, Slow(), rates])
    assert min(rates.used) < 0.05 / 3
    assert control.factor == 1.0
    assert rates.used[-1] == 0.05


class Climbs(Net):
    """Its loss is two, and nine from the twelfth step on if it is to climb."""

    def __init__(self, climbs: bool) -> None:
        super().__init__()
        self.climbs = climbs

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss - loss.detach() + (9.0 if self.climbs and self.trainer.global_step >= 11 else 2.0)


@pytest.fixture
def curved(fake: FakeAnalysis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A curvature of five: beyond ``2 (1 - 0.9) / 0.05``, far below ``2 (1 + 0.9) / 0.05``."""
    process = fake.process

    def curved(snapshot: Snapshot, probe: bool) -> Observation:
        observation = process(snapshot, probe)
        observation.values.update(
            {"shock/lambda_max": 5.0, "shock/lr_lambda_max": 5.0 * snapshot.stability_rate}
        )
        return observation

    monkeypatch.setattr(fake, "process", curved)
    fake.proximity = 0.0


def caught_up(watch: ShockWatch) -> L.Callback:
    return L.pytorch.callbacks.LambdaCallback(on_train_batch_end=lambda *_: watch.catch_up())


@pytest.mark.parametrize(("climbs", "factor"), [(False, 1.0), (True, 0.4)])
def test_once_the_loss_climbs_momentum_no_longer_widens_the_edge(
    fit: Fit, curved: None, climbs: bool, factor: float
) -> None:
    watch, control = ShockWatch(every_n_steps=2, horizon=2, probe=1), ShockLRController()
    fit([watch, caught_up(watch), control], Climbs(climbs))
    # 0.05 / (1 - 0.9) * 5 = 2.5
    assert control.factor == pytest.approx(factor)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_climb_is_acted_on_between_two_measurements(fit: Fit, curved: None, dry_run: bool) -> None:
    watch, rates = ShockWatch(every_n_steps=10, horizon=10, probe=1), Rates()
    control = ShockLRController(dry_run=dry_run)
    factors: list[float] = []
    sees = L.pytorch.callbacks.LambdaCallback(on_train_batch_end=lambda *_: factors.append(control.factor))
    _, module = fit([watch, caught_up(watch), control, sees, rates], Climbs(True))
    # snapshots after steps 1, 10 and 20; the losses of steps 12 and 13 are the two high ones that it takes
    assert factors == pytest.approx([1.0] * 12 + [0.4] * 8)
    assert rates.used == pytest.approx([0.05] * 20 if dry_run else [0.05] * 13 + [0.02] * 7)
    if dry_run:
        _, plain = fit([], Climbs(True))
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), module.parameters(), strict=True))


class Elsewhere(torch.Tensor):
    """A loss that says that it is on an accelerator."""

    device = property(lambda _: torch.device("cuda", 0))  # type: ignore[assignment]


class Far(Climbs):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx).as_subclass(Elsewhere)


def test_an_accelerator_is_not_waited_for(fit: Fit, curved: None) -> None:
    watch, control = ShockWatch(every_n_steps=10, horizon=10, probe=1), ShockLRController()
    factors: list[float] = []
    sees = L.pytorch.callbacks.LambdaCallback(on_train_batch_end=lambda *_: factors.append(control.factor))
    fit([watch, caught_up(watch), control, sees], Far(True))
    assert factors == pytest.approx([1.0] * 13 + [0.4] * 7), "the loss of step 13 is read after step 14"


def test_what_a_climb_needs_survives_a_checkpoint(fit: Fit, curved: None) -> None:
    watch, control = ShockWatch(every_n_steps=10, horizon=10, probe=1), ShockLRController()
    fit([watch, caught_up(watch), control], Climbs(False))
    state = control.state_dict()
    assert state["latest"][0] == 20
    assert state["latest"][3] == pytest.approx(2.5)
    again = ShockLRController()
    again.load_state_dict(state | {"losses": [9.0]})
    assert again.state_dict() == state | {"losses": [9.0]}


def test_dry_run_changes_nothing(fit: Fit, fake: FakeAnalysis) -> None:
    fake.proximity = 2.0
    _, plain = fit([])
    rates, control = Rates(), ShockLRController(target=0.5, dry_run=True)
    _, watched = fit([ShockWatch(every_n_steps=2, horizon=2, probe=1), control, Slow(), rates])
    assert control.factor == 0.25
    assert set(rates.used) == {0.05}
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_needs_a_watch(fit: Fit) -> None:
    with pytest.raises(MisconfigurationException, match="no ShockWatch"):
        fit([ShockLRController(target=0.5)])


@pytest.mark.parametrize("options", [{"target": 0.0}, {"target": 1.5}, {"target": "x"}, {"dry_run": 1}])
def test_arguments_are_validated(options: dict[str, Any]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}: must be"):
        ShockLRController(**options)
