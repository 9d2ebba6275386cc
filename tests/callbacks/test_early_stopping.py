from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from shockwatch.callbacks import ShockEarlyStopping, ShockWatch
from shockwatch.callbacks.early_stopping import Patience
from tests.callbacks.lightning_cases import Fit
from tests.engine.shockwatch_fakes import FakeAnalysis


class Slow(L.Callback):
    """Leaves the worker time to answer."""

    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(0.01)


def test_patience_counts_consecutive_values() -> None:
    state = Patience(1.0, 2)
    reached = []
    for value in (2.0, 0.5, 2.0, float("nan"), 1.5, 3.0, 1.0, 2.0, 2.0):
        state = state.see(value)
        reached.append(state.reached)
    assert reached == [False, False, False, False, True, False, False, False, True]


def test_stops_in_the_middle_of_an_epoch(fit: Fit, fake: FakeAnalysis) -> None:
    fake.proximity = 1.2
    stop = ShockEarlyStopping(patience=3)
    trainer, _ = fit([ShockWatch(every_n_steps=2, probe=1), stop, Slow()], max_epochs=3)
    # new values at the snapshots of steps 1, 2 and 4
    assert trainer.global_step < 10
    assert stop.stopped_step == trainer.global_step
    assert "1.2 at step 4" in stop.reason


def test_old_values_do_not_wear_the_patience_out(fit: Fit, fake: FakeAnalysis) -> None:
    fake.proximity = 1.2
    stop = ShockEarlyStopping(patience=2)
    # one probe only: proximity stays published for the whole run
    trainer, _ = fit([stop, ShockWatch(every_n_steps=2, probe=1000), Slow()])
    assert trainer.global_step == 20
    assert stop.stopped_step is None


def test_calm_run_goes_on(fit: Fit, fake: FakeAnalysis) -> None:
    trainer, _ = fit([ShockWatch(every_n_steps=2, probe=1), ShockEarlyStopping(patience=1), Slow()])
    assert trainer.global_step == 20


def test_checkpoint_goes_on_and_saves_once(fit: Fit, fake: FakeAnalysis, tmp_path: Path) -> None:
    fake.proximity = 2.0
    save = ShockEarlyStopping(patience=1, action="checkpoint")
    trainer, _ = fit([ShockWatch(every_n_steps=2, probe=1), save, Slow()])
    assert trainer.global_step == 20
    assert save.stopped_step is None
    (path,) = save.checkpoints
    assert Path(path).parent == tmp_path / "shockwatch"
    state = torch.load(path, weights_only=True)
    assert Path(path).name == f"step={state['global_step']}.ckpt"
    assert any("ShockEarlyStopping" in key for key in state["callbacks"])


def test_both(fit: Fit, fake: FakeAnalysis, tmp_path: Path) -> None:
    fake.proximity = 2.0
    both = ShockEarlyStopping(patience=1, action="both")
    trainer, _ = fit([ShockWatch(every_n_steps=2, probe=1), both, Slow()])
    assert trainer.global_step == both.stopped_step < 20
    assert [Path(path).name for path in both.checkpoints] == [f"step={both.stopped_step}.ckpt"]


@pytest.mark.parametrize(
    "error", [OSError("disk full"), RuntimeError("writer"), pickle.PicklingError("lambda")]
)
def test_a_checkpoint_that_fails_costs_a_warning(
    fit: Fit, fake: FakeAnalysis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    fake.proximity = 2.0
    monkeypatch.setattr(L.Trainer, "save_checkpoint", fail)
    both = ShockEarlyStopping(patience=1, action="both")
    watch = ShockWatch(every_n_steps=2, probe=1)
    with pytest.warns(UserWarning, match=rf"no checkpoint at .* \({type(error).__name__}: {error}\)"):
        trainer, _ = fit([watch, both, Slow()])
    assert both.checkpoints == []
    assert trainer.global_step == both.stopped_step < 20, "it stops all the same"


def test_an_interrupt_while_saving_is_the_users(
    fit: Fit, fake: FakeAnalysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(BaseException):
        pass

    def fail(*args: Any, **kwargs: Any) -> None:
        raise Interrupt

    fake.proximity = 2.0
    monkeypatch.setattr(L.Trainer, "save_checkpoint", fail)
    with pytest.raises(Interrupt):
        fit([ShockWatch(every_n_steps=2, probe=1), ShockEarlyStopping(patience=1, action="both"), Slow()])


def test_values_published_while_saving_count_after_a_resume(
    fit: Fit, fake: FakeAnalysis, tmp_path: Path
) -> None:
    fake.proximity = 2.0
    fake.seconds = 0.05  # longer than a step: the snapshot is in work when the checkpoint is written
    stop = ShockEarlyStopping(patience=99)
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    watch = ShockWatch(every_n_steps=4, probe=1)
    fit([watch, stop, save], max_steps=4, max_epochs=-1, enable_checkpointing=True)
    state = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["callbacks"][stop.state_key]
    assert (4, 2.0) in map(tuple, state["pending"])
    twin = ShockEarlyStopping(patience=99)
    twin.load_state_dict(state)
    assert twin._pending == [tuple(seen) for seen in state["pending"]]


def test_early_values_may_be_ignored(fit: Fit, fake: FakeAnalysis) -> None:
    fake.proximity = 2.0
    stop = ShockEarlyStopping(patience=1, min_steps=10)
    trainer, _ = fit([ShockWatch(every_n_steps=2, probe=1), stop, Slow()])
    assert 10 <= trainer.global_step < 20


def test_any_tag_may_be_monitored(fit: Fit, fake: FakeAnalysis) -> None:
    stop = ShockEarlyStopping("raw/norm", threshold=0.0, patience=1)
    trainer, _ = fit([ShockWatch(every_n_steps=2), stop, Slow()])
    assert trainer.global_step < 20


def test_a_new_run_has_its_full_patience(fit: Fit, fake: FakeAnalysis) -> None:
    fake.proximity = 2.0
    stop = ShockEarlyStopping(patience=2)
    watch = ShockWatch(every_n_steps=2, probe=1)
    for _ in range(2):
        trainer, _ = fit([watch, stop, Slow()])
        assert trainer.global_step < 20
    assert len(watch._publisher.listeners) == 0


def test_needs_a_watch(fit: Fit) -> None:
    with pytest.raises(MisconfigurationException, match=r"no ShockWatch: .*ShockWatch\(\)"):
        fit([ShockEarlyStopping()])


def test_state_is_plain_and_comes_back() -> None:
    stop = ShockEarlyStopping(patience=3)
    stop._state = Patience(1.0, 3, 2)
    twin = ShockEarlyStopping(patience=3)
    twin.load_state_dict(stop.state_dict())
    assert twin._state == stop._state
    assert stop.state_key != ShockEarlyStopping(action="checkpoint").state_key


@pytest.mark.parametrize(
    "options",
    [
        {"monitor": "shock/proximty"},
        {"threshold": "1"},
        {"patience": 0},
        {"action": "panic"},
        {"min_steps": -1},
    ],
)
def test_arguments_are_validated(options: dict[str, Any]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        ShockEarlyStopping(**options)
