"""The real analysis under Lightning resumes (that it leaves the run as it was: tests/runs)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from shockwatch.callbacks import ShockWatch
from tests.callbacks.lightning_cases import Fit

pytest.importorskip("shockwatch.engine", exc_type=ImportError)


def test_checkpoint_resumes(fit: Fit, tmp_path: Path) -> None:
    trainer, _ = fit([ShockWatch(every_n_steps=5, probe=2)])
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    watch = ShockWatch(every_n_steps=5, probe=2)
    fit([watch], max_epochs=2, ckpt_path=path)
    assert watch.values["shockwatch/errors"] == 0.0
    assert math.isfinite(watch.values["quotient/path_length"])
