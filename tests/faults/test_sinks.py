"""Faults where results go: loggers, writers, listeners, disks."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shockwatch import ShockWatch
from tests.faults.processes import ROOT, environment
from tests.faults.recipes import Memory, ours
from tests.faults.survival import survives


class Refusing(Memory):
    """Takes the user's values, and none of ours."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "raw/norm" in metrics:
            raise ConnectionError("the server is away")
        super().log_metrics(metrics, step)


class Away:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("not logged in")


class Faceless(Memory):
    """Whatever is asked of its experiment fails."""

    @property
    def experiment(self) -> Any:
        return Away()


class Textless(TensorBoardLogger):
    """Its writer takes scalars, and no texts."""

    @property
    def experiment(self) -> Any:
        writer = super().experiment
        writer.add_text = self._refuse
        return writer

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise TypeError("no text")


@pytest.mark.parametrize("make", [Refusing, Faceless], ids=lambda kind: kind.__name__)
def test_a_logger_that_fails_costs_one_warning(make: type[Memory], roomy: None) -> None:
    sound, broken = Memory(), make()
    watch, *others = ours()
    heard, _ = survives(watch, *others, logger=[broken, sound])
    assert all(make.__name__ in text for text in heard)
    assert len(heard) == (1 if make is Refusing else 2)  # the layout of the charts, and the texts
    assert watch.values["raw/norm"] > 0.0
    assert sound.losses == broken.losses


def test_a_writer_without_text_still_gets_every_scalar(tmp_path: Path, roomy: None) -> None:
    logger = Textless(tmp_path)
    heard, _ = survives(ShockWatch(every_n_steps=2, probe=1), logger=logger)
    assert len(heard) == 1
    events = EventAccumulator(logger.log_dir).Reload()
    assert [e.step for e in events.Scalars("raw/norm")] == [0, 1, 3, 5, 7]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_loggers_of_any_kind(count: int, tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "c"), TensorBoardLogger(tmp_path, "t"), Memory()][:count]
    watch, *others = ours()
    heard, trainer = survives(watch, *others, logger=loggers or False)
    assert heard == []
    assert len(trainer.loggers) == count
    assert watch.values["raw/norm"] > 0.0
    for logger in loggers[:1]:
        assert "raw/norm" in (Path(logger.log_dir) / "metrics.csv").read_text()  # type: ignore[arg-type]


def test_a_listener_that_fails_is_dropped_and_the_others_hear_on(roomy: None) -> None:
    watch = ShockWatch(every_n_steps=2, probe="off")
    heard_steps: list[int] = []

    def broken(update: Any) -> None:
        raise LookupError("listener")

    watch.subscribe(broken)
    watch.subscribe(lambda update: heard_steps.append(update.step))
    heard, _ = survives(watch)
    assert len(heard) == 1
    assert "LookupError: listener" in heard[0]
    assert heard_steps == [1, 2, 4, 6, 8]


def test_a_slow_disk_is_waited_for_and_stated_as_overhead(roomy: None) -> None:
    class Slow(Memory):
        steps: list[int]

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            super().log_metrics(metrics, step)
            if "raw/norm" in metrics:
                self.steps.append(step or 0)
                time.sleep(0.05)

    logger = Slow()
    logger.steps = []
    watch = ShockWatch(every_n_steps=2, probe="off")
    heard, _ = survives(watch, logger=logger)
    assert heard == []
    assert logger.steps == [0, 1, 3, 5, 7]
    assert watch.values["shockwatch/overhead"] > 0.0


FULL = """
import warnings
from pathlib import Path
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tests.faults.recipes import ours
from tests.faults.survival import survives

full = Path(ROOT) / "disk"
(full / "ballast").write_bytes(bytes({ballast}))
kind = {{"csv": CSVLogger, "tensorboard": TensorBoardLogger}}["{kind}"]
watch, *others = ours(every_n_steps=1)
heard, trainer = survives(watch, *others, logger=kind(full), max_epochs=60)
assert len(heard) == 1, heard
assert "less than 16 MiB are left on the disk" in heard[0], heard
assert watch.values["raw/norm"] > 0.0
assert watch.values["shockwatch/errors"] == 0.0
"""


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_a_full_disk(kind: str, tmp_path: Path) -> None:
    """A disk of 256 KiB in a mount namespace of its own: there is room for the user's values, not for ours."""
    (tmp_path / "disk").mkdir()
    script = tmp_path / "run.py"
    script.write_text(f"ROOT = {str(tmp_path)!r}\n" + FULL.format(kind=kind, ballast=(256 - 100) * 1024))
    mount = f"mount -t tmpfs -o size=256k none {tmp_path}/disk && exec {sys.executable} {script}"
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", mount],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
