"""Two processes on one machine: rank 0 does the work, all ranks act together.

python -m examples.ddp
"""

from __future__ import annotations

import sys

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from examples.cli import DeepLinear, LinearTarget
from shockwatch import ShockEarlyStopping, ShockWatch


def run(steps: int = 2000, folder: str = "shockwatch_runs") -> ShockWatch:
    """The demo network under DDP on two CPU processes; stops when a transition is near."""
    L.seed_everything(0)
    watch = ShockWatch(every_n_steps=50, probe=1, horizon=300)
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", devices=2, strategy="ddp", enable_checkpointing=False,
        callbacks=[watch, ShockEarlyStopping(threshold=1.0, action="stop")],
        logger=TensorBoardLogger(folder, "ddp"),
    )  # fmt: skip
    trainer.fit(DeepLinear(), LinearTarget())
    print(f"rank {trainer.global_rank} stopped at step {trainer.global_step}")
    return watch


if __name__ == "__main__":
    run(*(int(argument) for argument in sys.argv[1:2]), *sys.argv[2:3])
