"""The real analysis under Lightning: the run stays as it was, and the tags arrive."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from lightning_cases import Fit, Net

from shockwatch.callbacks import ShockWatch
from shockwatch.tags import known_tag

pytest.importorskip("shockwatch.engine", exc_type=ImportError)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_parameters_are_bit_identical(fit: Fit, optimizer: str, accumulate: int) -> None:
    torch.manual_seed(1)
    module = Net(optimizer)
    twin = copy.deepcopy(module)
    options = {"accumulate_grad_batches": accumulate, "max_epochs": 2, "val": True}
    _, plain = fit([], module, **options)
    watch = ShockWatch(every_n_steps=2, probe=2)
    trainer, watched = fit([watch], twin, **options)
    before, after = plain.state_dict(), watched.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert watch.values["shockwatch/errors"] == 0.0
    assert {"quotient/norm", "raw/drift", "shock/lambda_min", "phase/state"} <= watch.values.keys()
    assert all(known_tag(tag) for tag in watch.values)
    assert math.isfinite(float(trainer.callback_metrics["shock/proximity"]))


def test_checkpoint_resumes(fit: Fit, tmp_path: Path) -> None:
    trainer, _ = fit([ShockWatch(every_n_steps=5, probe=2)])
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    watch = ShockWatch(every_n_steps=5, probe=2)
    fit([watch], max_epochs=2, ckpt_path=path)
    assert watch.values["shockwatch/errors"] == 0.0
    assert math.isfinite(watch.values["quotient/path_length"])
