"""An alert rule of your own beside the default ones.

python -m examples.custom_rule
"""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from examples.cli import DeepLinear, LinearTarget
from shockwatch import ShockWatch
from shockwatch.alerts import Rule
from shockwatch.alerts.rules import DEFAULT_RULES

FAR_FROM_START = Rule(
    name="far from start",
    tag="quotient/distance_from_start",
    threshold=1.0,
    severity="info",
    message="The network is {value} away from where it started (step {step}).",
)


def run(steps: int = 2000, folder: str = "shockwatch_runs") -> ShockWatch:
    """The demo network with one more rule; TensorBoard files under ``folder``."""
    L.seed_everything(0)
    watch = ShockWatch(every_n_steps=50, alerts=[*DEFAULT_RULES, FAR_FROM_START])
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[watch], logger=TensorBoardLogger(folder, "rule"),
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(DeepLinear(), LinearTarget())
    return watch


if __name__ == "__main__":
    for alert in run().alerts:
        print(alert.step, alert.name, alert.message)
