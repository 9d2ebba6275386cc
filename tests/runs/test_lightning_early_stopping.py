"""Lightning's own EarlyStopping monitors our tags."""

from __future__ import annotations

import time
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping

from examples.cli import DeepLinear, LinearTarget
from shockwatch import ShockWatch
from tests.runs.modules import fit

LEARNED = 4.0 / 3  # a transition is steepest at a third of its singular value


class SlowStep(pl.Callback):
    """Steps as slow as those of a larger model: the analysis of this one takes longer than fifty of its own."""

    def on_train_batch_end(self, *arguments: object) -> None:
        time.sleep(0.006)


def test_stops_before_the_first_transition(tmp_path: Path) -> None:
    """One epoch is 100 steps; the proximity at the end of one decides."""
    pl.seed_everything(0, verbose=False)
    model, data = DeepLinear(), LinearTarget()
    loader = data.train_dataloader()
    watch = ShockWatch(every_n_steps=50, probe=1, horizon=500)
    stopping = EarlyStopping(
        monitor="shock/proximity",
        mode="max",
        stopping_threshold=1.0,
        patience=10_000,
        check_on_train_epoch_end=True,
        strict=True,
    )
    seen: list[float] = []
    watch.subscribe(lambda update: seen.append(update.values.get("shock/proximity", 0.0)))
    trainer = fit(model, loader, watch, SlowStep(), stopping, max_steps=1500, default_root_dir=tmp_path)
    assert stopping.stopped_epoch > 0
    assert trainer.global_step < 1500
    # The last snapshot, taken after the decision, may read anything.
    assert max(seen) >= 1.0
    product = (model.layers[1].weight @ model.layers[0].weight).detach()  # type: ignore[operator]
    assert float(product.svd().S[0]) < LEARNED
