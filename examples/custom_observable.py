"""A number of your own, computed on the quotient: one small class and one line that registers it.

python -m examples.custom_observable
"""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from examples.cli import DeepLinear, LinearTarget
from shockwatch import ShockWatch
from shockwatch.observables import OBSERVABLES, Observable, Point


class LargestWeight(Observable):
    """``custom/largest_weight``: the largest entry of the canonical parameters, the same in every gauge."""

    def compute(self, point: Point, previous: Point | None) -> dict[str, float]:
        return {
            "custom/largest_weight": max(float(point.canonical[n].abs().max()) for n in point.quotient.names)
        }


def run(steps: int = 2000, folder: str = "shockwatch_runs") -> ShockWatch:
    """The demo network, watched with one more scalar; TensorBoard files under ``folder``."""
    if LargestWeight not in OBSERVABLES:
        OBSERVABLES.append(LargestWeight)
    L.seed_everything(0)
    watch = ShockWatch(every_n_steps=50)
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[watch], logger=TensorBoardLogger(folder, "observable"),
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(DeepLinear(), LinearTarget())
    return watch


if __name__ == "__main__":
    print(run().values["custom/largest_weight"])
