"""A deep linear network learns its target one singular value at a time; shockwatch says when each comes.

Every plateau ends in a transition whose time is known exactly (Saxe, McClelland & Ganguli 2014): the ideal
first test of a forecast. Run it as ``shockwatch demo`` or ``python examples/demo.py``.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shockwatch.alerts import Alert
from shockwatch.callbacks import ShockWatch
from shockwatch.session import Update

SINGULAR_VALUES = (4.0, 2.0, 1.0, 0.5)
WIDTH, STEPS, LEARNING_RATE, EVERY = 8, 8000, 0.001, 100


class DeepLinear(pl.LightningModule):
    """Two linear layers from a small start, squared error, plain gradient descent."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second = nn.Linear(WIDTH, WIDTH, bias=False)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.03)
        self.left, _, self.right = torch.linalg.svd(target)
        self.transitions: dict[float, int] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, outputs = batch
        residual: Tensor = self.second(self.first(inputs)) - outputs
        loss = 0.5 * residual.square().sum()
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Note when each mode is at its steepest: when it has learned a third of its singular value."""
        product = torch.matmul(self.second.weight, self.first.weight).detach()
        learned = torch.linalg.multi_dot((self.left.T, product, self.right.T)).diagonal()
        for k, value in enumerate(SINGULAR_VALUES):
            if value not in self.transitions and learned[k] > value / 3:
                self.transitions[value] = self.global_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


class _Unhurried(pl.Callback):
    """Waits a moment in each step while the analysis is behind: steps of a millisecond outrun it on a busy machine."""

    def __init__(self, watch: ShockWatch) -> None:
        self._seen = 0
        watch.subscribe(self._note)

    def _note(self, update: Update) -> None:
        self._seen = update.step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step - self._seen > 2 * EVERY:
            time.sleep(0.01)


@dataclass(frozen=True)
class DemoResult:
    """What the demo saw: forecasts as (step made, steps ahead), and the transitions that came."""

    forecasts: list[tuple[int, float]]
    transitions: dict[float, int]
    alerts: list[Alert]
    dropped: int
    log_dir: str

    def ahead(self, actual: int, at_least: int = 100) -> list[tuple[int, float]]:
        """The forecasts of the transition at step ``actual``, made ``at_least`` steps before it."""
        before = max((t for t in self.transitions.values() if t < actual), default=0)
        return [(made, steps) for made, steps in self.forecasts if before <= made <= actual - at_least]

    @property
    def errors(self) -> list[float]:
        """``|forecast - actual| / remaining`` of every forecast made 100 or more steps ahead."""
        return [
            abs(made + steps - actual) / (actual - made)
            for actual in self.transitions.values()
            for made, steps in self.ahead(actual)
        ]

    @property
    def false_forecasts(self) -> int:
        """Forecasts made after the last transition."""
        last = max(self.transitions.values(), default=0)
        return sum(made > last for made, _ in self.forecasts)

    def table(self) -> str:
        """Forecast step against actual step, three forecasts a transition."""
        lines = ["singular value   made at step   forecast step   actual step   error / remaining"]
        for value, actual in self.transitions.items():
            made_ahead = self.ahead(actual)
            for made, steps in made_ahead[:: max(1, len(made_ahead) // 3)][:3]:
                error = abs(made + steps - actual) / (actual - made)
                lines.append(
                    f"{value:14.1f}   {made:12d}   {made + steps:13.0f}   {actual:11d}   {error:17.1%}"
                )
            if not made_ahead:
                lines.append(f"{value:14.1f}   {'none 100 or more steps ahead':>30}   {actual:11d}")
        errors = sorted(self.errors)
        median = errors[len(errors) // 2] if errors else math.nan
        lines += [
            "",
            f"median error of {len(errors)} forecasts made 100 or more steps ahead: {median:.1%}",
            f"forecasts after the last transition: {self.false_forecasts}",
            f"snapshots dropped because the analysis was behind: {self.dropped}",
        ]
        return "\n".join(lines)


def run(root: str | Path = "shockwatch_demo", steps: int = STEPS) -> DemoResult:
    """Train the network under a real Trainer with ``ShockWatch`` attached."""
    pl.seed_everything(0, verbose=False)
    left, right = (torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q for _ in range(2))
    target = torch.linalg.multi_dot((left[:, :4], torch.diag(torch.tensor(SINGULAR_VALUES)), right[:4]))
    inputs = torch.eye(WIDTH).repeat(100, 1)
    data = DataLoader(TensorDataset(inputs, torch.matmul(inputs, target.T)), batch_size=WIDTH)
    model = DeepLinear(target)

    watch = ShockWatch(every_n_steps=EVERY, probe=1, horizon=500)
    forecasts: list[tuple[int, float]] = []
    watch.subscribe(
        lambda update: forecasts.append((update.step, update.values.get("shock/arrival_steps", math.nan)))
    )
    logger = TensorBoardLogger(root, name="deep_linear")
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=math.ceil(steps / len(data)),  # for the progress bar
        accelerator="cpu",
        logger=logger,
        callbacks=[watch, _Unhurried(watch)],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
    )
    trainer.fit(model, data)
    made = [(step, ahead) for step, ahead in forecasts if math.isfinite(ahead)]
    dropped = int(watch.values.get("shockwatch/dropped", 0))
    return DemoResult(made, model.transitions, watch.alerts, dropped, logger.log_dir)


def main(root: str | Path = "shockwatch_demo") -> None:
    """Run the demo; alerts are printed as they come, the table at the end."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*|.*LeafSpec.*")
    result = run(root)
    print(f"\n{result.table()}\n\nlook at it:  tensorboard --logdir {result.log_dir}")
    print("then open    http://localhost:6006/#custom_scalars&_smoothingWeight=0\n")


if __name__ == "__main__":
    main()
