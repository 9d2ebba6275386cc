"""Let the watch act: lower the learning rate near a transition, save a checkpoint, or stop.

python -m examples.control      (a quarter of a minute)
"""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from examples.cli import DeepLinear, LinearTarget
from shockwatch import ShockEarlyStopping, ShockLRController, ShockWatch


def run(steps: int = 3000, folder: str = "shockwatch_runs") -> ShockWatch:
    """A deep linear network that passes its transitions at a lower learning rate, saved before each."""
    L.seed_everything(0)
    watch = ShockWatch(every_n_steps=50, probe=1, horizon=300)
    callbacks = [
        watch,
        # "stop" would end the run at the first transition, "both" saves and ends it
        ShockEarlyStopping(monitor="shock/proximity", threshold=1.0, patience=2, action="checkpoint"),
        ShockLRController(target=0.8),
    ]
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=callbacks, logger=TensorBoardLogger(folder, "control"),
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(DeepLinear(), LinearTarget())
    return watch


if __name__ == "__main__":
    run()
