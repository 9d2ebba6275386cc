"""A deep linear network learns its target one singular value at a time; shockwatch says when each comes.

Every plateau ends in a transition whose time is known exactly (Saxe, McClelland & Ganguli 2014): the ideal
first test of a forecast. Run it as ``shockwatch demo`` or ``python examples/demo.py``.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shockwatch.callbacks import ShockWatch

SINGULAR_VALUES = (4.0, 2.0, 1.0, 0.5)
WIDTH, STEPS, LEARNING_RATE, HORIZON = 8, 11_000, 0.002, 500


class DeepLinear(pl.LightningModule):
    """Two linear layers from a small start, squared error, plain gradient descent."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False))
        for parameter in self.layers.parameters():
            nn.init.normal_(parameter, std=0.03)
        left, _, right = torch.linalg.svd(target)
        self.left, self.right = left, right
        self.transitions: dict[float, int] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, outputs = batch
        loss = 0.5 * (self.layers(inputs) - outputs).square().sum()
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Note the step at which each singular value passes the steepest point of its rise, a third of its size."""
        first, second = (layer.weight.detach() for layer in self.layers)
        learned = (self.left.T @ second @ first @ self.right.T).diagonal()
        for k, value in enumerate(SINGULAR_VALUES):
            if value not in self.transitions and learned[k] > value / 3:
                self.transitions[value] = self.global_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


def make_target() -> Tensor:
    """A random map with the four singular values."""
    left, right = (torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q for _ in range(2))
    return left[:, :4] @ torch.diag(torch.tensor(SINGULAR_VALUES)) @ right[:4]


class Forecasts(pl.Callback):
    """Keeps the arrival forecasts that ShockWatch publishes, and prints its alerts as they come."""

    def __init__(self, watch: ShockWatch) -> None:
        self.made: list[tuple[int, float]] = []
        watch.subscribe(self._collect)

    def _collect(self, update: object) -> None:
        values = getattr(update, "values", {})
        if math.isfinite(ahead := values.get("shock/arrival_steps", math.nan)):
            self.made.append((getattr(update, "step", 0), ahead))


def score(forecasts: list[tuple[int, float]], transitions: list[int]) -> list[tuple[int, float, int]]:
    """Each forecast as (step at which it was made, step it names, step at which the next transition came)."""
    rows = []
    for step, ahead in forecasts:
        later = [t for t in transitions if t > step]
        if later:
            rows.append((step, step + ahead, later[0]))
    return rows


def median_error(rows: list[tuple[int, float, int]], at_least: int) -> float:
    """Median of ``|forecast - actual| / remaining`` over forecasts made ``at_least`` steps ahead."""
    errors = sorted(abs(named - actual) / (actual - step) for step, named, actual in rows if actual - step >= at_least)
    return errors[len(errors) // 2] if errors else math.nan


def run(root: str | Path = "shockwatch_demo", steps: int = STEPS, progress: bool = True) -> dict[str, object]:
    """Train and print; returns forecasts, transitions and alerts."""
    pl.seed_everything(0, verbose=False)
    target = make_target()
    inputs = torch.eye(WIDTH)
    data = DataLoader(TensorDataset(inputs, inputs @ target.T), batch_size=WIDTH)
    model = DeepLinear(target)
    watch = ShockWatch(every_n_steps=50, probe=1, horizon=HORIZON)
    forecasts = Forecasts(watch)
    logger = TensorBoardLogger(root, name="deep_linear")
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=logger,
        callbacks=[watch, forecasts],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        log_every_n_steps=50,
    )
    trainer.fit(model, data)
    rows = score(forecasts.made, list(model.transitions.values()))
    return {
        "rows": rows,
        "forecasts": forecasts.made,
        "transitions": model.transitions,
        "alerts": watch.alerts,
        "values": watch.values,
        "log_dir": logger.log_dir,
    }


def report(result: dict[str, object]) -> str:
    """The table at the end: for each transition the forecasts made well ahead, and what happened."""
    rows: list[tuple[int, float, int]] = result["rows"]  # type: ignore[assignment]
    transitions: dict[float, int] = result["transitions"]  # type: ignore[assignment]
    forecasts: list[tuple[int, float]] = result["forecasts"]  # type: ignore[assignment]
    lines = ["", "  singular value   made at step   forecast step   actual step   error / remaining"]
    for value, actual in transitions.items():
        ahead = [r for r in rows if r[2] == actual and actual - r[0] >= 100]
        for step, named, _ in ahead[:: max(1, len(ahead) // 3)][:3]:
            error = abs(named - actual) / (actual - step)
            lines.append(f"  {value:14.1f}   {step:12d}   {named:13.0f}   {actual:11d}   {error:17.1%}")
        if not ahead:
            lines.append(f"  {value:14.1f}   {'none, 100 or more steps ahead':>30}   {actual:11d}")
    last = max(transitions.values(), default=0)
    after = sum(step > last for step, _ in forecasts)
    lines += [
        "",
        f"  median error of forecasts made 100 or more steps ahead: {median_error(rows, 100):.1%}",
        f"  forecasts after the last transition (step {last}): {after}",
        "",
        f"  look at it:  tensorboard --logdir {result['log_dir']}",
        "",
    ]
    return "\n".join(lines)


def run_and_report(root: str | Path = "shockwatch_demo") -> None:
    """Run the demo and print its table."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    print(report(run(root)))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    run_and_report()
