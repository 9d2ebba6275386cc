"""Every example runs on short settings, logs, and is free of errors."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shockwatch.observables import OBSERVABLES

ROOT = Path(__file__).parents[2]
# Steps, and tags beyond the common ones that the example is about.
EXAMPLES = {
    "image_classifier": (60, {"shock/lambda_min"}),
    "character_transformer": (10, {"shock/lambda_min", "block/"}),
    "lora": (60, {"block/"}),
    "grokking": (60, {"shock/lambda_max", "test accuracy"}),
    "gan": (100, {"shock/lambda_min", "critic"}),
    "plain_pytorch": (80, {"shock/lambda_min", "shock/arrival_steps"}),
    "control": (150, {"shockwatch/lr_factor"}),
    "custom_observable": (100, {"custom/largest_weight"}),
    "custom_rule": (100, {"shock/proximity"}),
}
COMMON = {"quotient/norm", "quotient/speed", "raw/norm", "raw/drift", "phase/state", "shockwatch/overhead"}


@pytest.fixture(autouse=True)
def registry():
    before = list(OBSERVABLES)
    yield
    OBSERVABLES[:] = before


def tags(folder):
    found = {}
    for file in Path(folder).rglob("events.*"):
        events = EventAccumulator(str(file)).Reload()
        found.update({tag: events.Scalars(tag) for tag in events.Tags()["scalars"]})
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps, special = EXAMPLES[name]
    watch = importlib.import_module(f"examples.{name}").run(steps, str(tmp_path / "runs"))
    seen = tags(tmp_path / "runs")
    for tag in COMMON | special:
        assert any(known.startswith(tag) for known in seen), tag
    assert watch.values["shockwatch/errors"] == 0
    assert math.isfinite(seen["quotient/norm"][-1].value)
    if "custom/largest_weight" in special:
        assert 0 < seen["custom/largest_weight"][-1].value < seen["quotient/norm"][-1].value


def test_the_custom_rule_raises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watch = importlib.import_module("examples.custom_rule").run(1000, str(tmp_path))
    assert [alert.name for alert in watch.alerts].count("far from start") == 1


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_processes_stop_at_one_step(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    # the trainer waits for the analysis: on a busy machine the alert would come after the last step
    script = tmp_path / "waits.py"
    script.write_text(
        "import sys\nfrom examples import ddp\nfrom shockwatch import ShockWatch, session\n"
        "class Waiting(ShockWatch):\n"
        "    def on_train_batch_end(self, trainer, *args):\n"
        "        self.catch_up()\n"
        "        super().on_train_batch_end(trainer, *args)\n"
        "session.CHECKPOINT_TIMEOUT, ddp.ShockWatch = 200.0, Waiting\n"
        "ddp.run(1500, sys.argv[1])\n"
    )
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    stops = {line.rpartition(" ")[2] for line in done.stdout.splitlines() if " stopped at step " in line}
    assert len(stops) == 1
    assert int(stops.pop()) < 1500
