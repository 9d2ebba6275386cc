"""A run that is killed and resumed goes on as if nothing had happened.

The random kill is tried once here; SHOCKWATCH_LONG=1 tries it 20 times (.ci/long_faults).
"""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from shockwatch import Alert, ShockMonitor, ShockWatch, session
from shockwatch.alerts import Rule
from tests.faults.processes import ROOT, start
from tests.faults.recipes import Memory, Noisy, Plain, ours, points
from tests.faults.survival import listening

STEPS = 24
RULES = [
    Rule("far", "quotient/path_length", 0.2, "far at {step}"),
    Rule("farther", "quotient/path_length", 0.5, "farther at {step}", patience=2),
    Rule("fast", "quotient/speed", 0.02, "fast at {step}", cooldown=5, release=0.02),
    Rule("curved", "shock/lambda_max", 0.1, "curved at {step}"),
]
TRIALS = 20 if os.environ.get("SHOCKWATCH_LONG") else 1


class Journal(Memory):
    """Every value of ours, on disk as soon as it is logged."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        if "raw/norm" in metrics:
            with self.path.open("a") as journal:
                journal.write(json.dumps([(step or 0) + 1, metrics]) + "\n")

    def read(self) -> dict[int, dict[str, float]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        entries = [json.loads(line) for line in lines]
        assert len({step for step, _ in entries}) == len(entries), "a point was written twice"
        return dict(entries)


class Killer(pl.Callback):
    """SIGKILL, in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), 9)


class Whole(Plain):
    """All of the data in every batch: a resumed run sees what the first would have seen."""

    def loss(self, batch: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])


def train(folder: Path, journal: str, *callbacks: pl.Callback, resume: bool = False) -> tuple[Any, Journal]:
    """Train full-batch with a checkpoint every three steps; returns the watch and its journal."""
    pl.seed_everything(0, verbose=False)
    module, logger = Whole(), Journal(folder / journal)
    torch.manual_seed(1)
    batch = next(iter(DataLoader(Noisy(), batch_size=32)))
    watch, *others = ours(alerts=RULES)
    trainer = pl.Trainer(
        # in single precision a probe asks for 2 %, and the first of a resumed run starts from nothing
        accelerator="cpu", precision="64-true", max_epochs=STEPS, logger=logger,
        enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1, default_root_dir=folder,
        callbacks=[
            watch, *others, *callbacks,
            ModelCheckpoint(folder / "checkpoints", every_n_train_steps=3, save_last=True),
        ],
    )  # fmt: skip
    data = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, data, ckpt_path=str(folder / "checkpoints/last.ckpt") if resume else None)
    return watch, logger


def told(alerts: list[Alert]) -> list[tuple[str, int, str]]:
    return [(alert.name, alert.step, alert.tag) for alert in alerts]


def close(one: float, other: float, tag: str) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    loose = tag.startswith("shock/")
    return math.isclose(one, other, rel_tol=0.02 if loose else 1e-5, abs_tol=1e-5)


# What rests on the two snapshots, or the probe, before the kill: not in a checkpoint, for each costs a model's size.
WARMING = {
    "quotient/viscosity",
    "shock/reynolds",
    "shock/local_entropy_gap",
    "shock/gradient_field",
}
# Its window remembers the viscosities that are missing.
WARMING_LONG = {"phase/susceptibility"}
# A forecast's noise is as large as it says itself.
FORECAST = {"shock/arrival_steps", "shock/arrival_error", "shock/proximity", "shock/rate", "shock/strength"}


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_killed_run_goes_on_without_a_jump(trial: int, tmp_path: Path, roomy: None) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    reference, whole = train(tmp_path / "whole", "journal")
    step = random.SystemRandom().randint(4, STEPS - 2)
    code = (
        "from pathlib import Path\nimport functools\nfrom shockwatch import session\n"
        "session.Capture = functools.partial(session.Capture, slots=50)\n"
        f"session.CHECKPOINT_TIMEOUT = {session.CHECKPOINT_TIMEOUT}\n"
        "from tests.faults.test_resume import Killer, train\n"
        f"train(Path(ROOT) / 'torn', 'first', Killer({step}))"
    )
    killed = start(code, tmp_path)
    _, said = killed.communicate(timeout=240)
    assert killed.returncode == -9, said
    saved = torch.load(tmp_path / "torn/checkpoints/last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] <= step
    with listening() as heard:
        watch, second = train(tmp_path / "torn", "second", resume=True)
    assert heard == []
    before = {s: v for s, v in Journal(tmp_path / "torn/first").read().items() if s <= saved["global_step"]}
    after = second.read()
    expected = whole.read()
    assert not before.keys() & after.keys(), f"killed at {step}: a point was written by both"
    assert sorted(before | after) == sorted(expected), f"killed at {step}: points are missing"
    fresh = set(sorted(after)[:2])
    for at, values in expected.items():
        got = (before | after)[at]
        assert got.keys() == values.keys()
        for tag in values:
            if tag.startswith("shockwatch/") or tag in FORECAST or (at in fresh and tag in WARMING):
                continue
            if tag in WARMING_LONG and at in after:
                continue
            assert close(got[tag], values[tag], tag), (
                f"killed at {step}: {tag} at {at}: {got[tag]}, {values[tag]}"
            )
    assert told(watch.alerts) == told(reference.alerts), f"killed at {step}"
    assert len(reference.alerts) >= 3


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) in (str, int) and plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(plain, value))
    return value is None or type(value) in (bool, int, float, str, Tensor)


def test_states_are_plain_and_load_with_weights_only(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    watch, _ = train(tmp_path / "whole", "journal")
    checkpoint = torch.load(tmp_path / "whole/checkpoints/last.ckpt", weights_only=True)
    own = {key: state for key, state in checkpoint["callbacks"].items() if "Shock" in key}
    assert len(own) == 3
    assert all(plain(state) for state in own.values())
    assert plain(watch.state_dict())
    assert watch.state_dict()["analysis"] is not None


@pytest.fixture
def previous() -> dict[str, Any]:
    """What the release before this one saved after eight steps on ``Plain``."""
    state: dict[str, Any] = torch.load(ROOT / "tests/faults/previous_release.pt", weights_only=True)
    return state


def test_the_state_of_the_previous_release_loads(previous: dict[str, Any], roomy: None) -> None:
    watch, stopping, controller = ours(alerts=[Rule("far", "quotient/path_length", 0.01, "far at {step}")])
    with listening() as heard:
        watch.load_state_dict(previous["watch"])
        stopping.load_state_dict(previous["stopping"])
        controller.load_state_dict(previous["controller"])

        class Later(pl.Callback):
            """The run is not a new one."""

            def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
                optimizer = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer
                optimizer.step.total.completed = 8

        pl.seed_everything(0, verbose=False)
        trainer = pl.Trainer(
            callbacks=[Later(), watch, stopping, controller], accelerator="cpu", max_epochs=2, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Plain(), points())
    assert heard == []
    assert watch.values["shockwatch/errors"] == 0.0
    assert watch.values["quotient/path_length"] > previous["values"]["quotient/path_length"]
    assert [alert.name for alert in watch.alerts] == ["far"], "said once, by the previous release"


def test_the_monitor_goes_on_from_the_previous_release(previous: dict[str, Any]) -> None:
    module = Plain()
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    batch = next(iter(points()))
    rule = Rule("far", "quotient/path_length", 0.01, "far at {step}")
    with listening() as heard:
        monitor = ShockMonitor(module, lambda m, b: m.loss(b), optimizer, 2, probe=1, alerts=[rule])
        monitor.load_state_dict(previous["monitor"])
        optimizer.step()
        monitor.step(batch)
        monitor.close()
    assert heard == []
    assert monitor.values["shockwatch/errors"] == 0.0
    assert monitor.alerts == [], "said once, by the previous release"
    assert ShockWatch().alerts == []
