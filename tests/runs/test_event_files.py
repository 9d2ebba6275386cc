"""Train stock Lightning code with the callback and read the event files back."""

from __future__ import annotations

import math
from pathlib import Path

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shockwatch import ShockLRController, ShockWatch
from shockwatch.tags import TAGS, known_tag
from tests.runs.modules import build, data

# A path of three snapshots has a viscosity; what needs an unstable direction may be missing in a short run.
NEEDS_PATH = {"quotient/speed", "quotient/measure_speed", "raw/speed", "raw/drift", "quotient/viscosity"}
MAY_BE_MISSING = {
    "shock/arrival_steps",
    "shock/arrival_error",
    "shock/steps",
    "shock/time",
    "phase/edge_steps",
    "phase/edge_error",
    "shock/basin_gap",
    "shock/burgers_residual",
    "shock/forecast_score",
    "shock/trajectory_steps",
}
LONG = {"phase/variance_pvalue", "phase/autocorrelation_pvalue", "phase/susceptibility"}
BLOCKS = {"transformer": 2, "mlp": 0, "cnn": 0}


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_every_tag_in_step_order_and_finite_where_it_should_be(name: str, tmp_path: Path) -> None:
    watch = ShockWatch(every_n_steps=8, probe=1)
    logger = TensorBoardLogger(tmp_path)
    trainer = pl.Trainer(
        max_epochs=12,
        accelerator="cpu",
        logger=logger,
        callbacks=[watch, ShockLRController(dry_run=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=4,
    )
    trainer.fit(build(name), data(name))
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    written = events.Tags()["scalars"]
    # one is for Adam alone
    assert set(TAGS) - set(written) == {"raw/lr_lambda_max"}
    ours = [
        tag
        for tag in written
        if tag.split("/")[0] in {"quotient", "raw", "shock", "phase", "block", "shockwatch"}
    ]
    assert all(known_tag(tag) for tag in ours)
    assert sum(tag.endswith("/spectral_norm") for tag in ours) == BLOCKS[name]
    assert any(tag.startswith("raw/imbalance/") for tag in ours)
    for tag in ours:
        points = events.Scalars(tag)
        steps = [point.step for point in points]
        assert steps == sorted(set(steps)), tag
        finite = [math.isfinite(point.value) for point in points]
        if tag in MAY_BE_MISSING | LONG or tag.endswith("/collapse_steps"):
            continue
        needed = points[3:] if tag in NEEDS_PATH or tag.startswith(("phase/", "shock/")) else points
        assert all(math.isfinite(p.value) for p in needed), (tag, finite)
    assert events.Scalars("quotient/norm")[0].step == 0
    assert events.Scalars("quotient/norm")[-1].step == 47
    assert all(0 <= p.value <= 1 + 1e-6 for p in events.Scalars("raw/drift") if math.isfinite(p.value))
    texts = events.Tags()["tensors"]
    assert any("shockwatch/notes" in tag for tag in texts)
    assert any("custom_scalars" in tag for tag in texts)
    for tag in ours:
        last = events.Scalars(tag)[-1].value
        if math.isfinite(last):
            assert float(trainer.callback_metrics[tag]) == pytest.approx(last, rel=1e-6), tag
