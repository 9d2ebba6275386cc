"""The one list of ways to train that the callbacks must leave as they are, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import lightning.pytorch.callbacks as stock
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from shockwatch import ShockEarlyStopping, ShockLRController, ShockWatch
from tests.runs.modules import Traces, traces

Batch = tuple[Tensor, Tensor]


class Memory(Logger):
    """Keeps what the user's own ``self.log`` wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[tuple[int, float]] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    @property
    @rank_zero_experiment
    def experiment(self) -> None:
        return None

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.losses += [(step or 0, float(v)) for tag, v in metrics.items() if tag.startswith("user/")]


class Noisy(Dataset[Batch]):
    """Sixteen points with fresh noise at every visit, from whichever generator the visitor has."""

    def __getitem__(self, index: int) -> Batch:
        g = torch.Generator().manual_seed(index)
        return torch.randn(6, generator=g) + 0.1 * torch.rand(()), torch.randint(0, 4, (), generator=g)

    def __len__(self) -> int:
        return 32


class Stream(IterableDataset[Batch]):
    """The same points, without a length."""

    def __iter__(self) -> Iterator[Batch]:
        return iter([Noisy()[index] for index in range(32)])


def points(**options: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), batch_size=8, **({"shuffle": True} | options))


def mlp(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.ReLU(), nn.Linear(8, 4))


class Plain(pl.LightningModule):
    """Cross-entropy; subclasses change one thing each."""

    rate = 0.05

    def __init__(self, *middle: nn.Module) -> None:
        super().__init__()
        self.network = mlp(*middle)

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("user/loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("user/val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)


class Adam(Plain):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SecondOrder(Plain):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class HalfPrecision(Plain):
    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return super().loss(batch)


class Manual(Plain):
    """Two steps of the optimiser for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        for _ in range(2):
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("user/loss", loss)


class Scaled(Manual):
    """Float16 with a gradient scaler, whose first steps are skipped (the scale starts too high)."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        if not hasattr(self, "scaler"):
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
        optimizer: Any = self.optimizers()
        with torch.autocast("cpu", torch.float16):
            loss = self.loss(batch)
        optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        self.scaler.update()
        self.log("user/loss", loss)


class Adversarial(Manual):
    """A generator and a discriminator that take turns."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6))

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        first, second = self.optimizers()  # type: ignore[misc]
        noise = torch.randn(len(batch[0]), 3)
        for optimizer, sign in ((first, 1.0), (second, -1.0)):
            self.toggle_optimizer(optimizer)
            score = self.network(batch[0]).mean() - self.network(self.fake(noise)).mean()
            loss = sign * score.tanh()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        self.log("user/loss", loss)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.network, self.fake)]


class Drawing(Plain):
    """Draws from all three global generators."""

    def loss(self, batch: Batch) -> Tensor:
        noise = 0.1 * torch.randn_like(batch[0]) + np.random.rand() * 0.1 + random.random() * 0.1
        return F.cross_entropy(self.network(batch[0] + noise), batch[1])


class Compiled(Plain):
    """The network is compiled; the module around it is not."""

    def __init__(self) -> None:
        super().__init__(nn.Dropout(0.2))
        self.network = torch.compile(self.network, backend="aot_eager")  # type: ignore[assignment]


class Silent(Plain):
    """Logs outside of the step (which, compiled, cannot)."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.loss(batch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("user/loss", outputs["loss"])


def whole_compiled() -> pl.LightningModule:
    compiled: Any = torch.compile(Silent(), backend="aot_eager")
    return compiled


class Freezing(Plain):
    """Trains the last layer alone from the fourth step on."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.network[0].requires_grad_(self.trainer.global_step < 3)


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Attributes:
        name: of the test.
        module: makes it.
        loader: makes the training data.
        options: of the trainer.
        callbacks: the user's own, made anew for each run.
        validate: whether there is validation data.
    """

    name: str
    module: Callable[[], pl.LightningModule] = Plain
    loader: Callable[[], Any] = points
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[pl.Callback]] = list
    validate: bool = False

    def run(self, *ours: pl.Callback, first: bool = False, **options: Any) -> tuple[Traces, Memory, Any]:
        """Train from the same start; returns all that the run leaves behind, the losses it logged, the trainer."""
        pl.seed_everything(0, verbose=False)
        module, logger = self.module(), Memory()
        callbacks = [*ours, *self.callbacks()] if first else [*self.callbacks(), *ours]
        quiet: dict[str, Any] = {
            "accelerator": "cpu",
            "max_epochs": 2,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 1,
        }
        trainer = pl.Trainer(callbacks=callbacks, **({"logger": logger} | quiet | self.options | options))
        trainer.fit(module, self.loader(), points(shuffle=False) if self.validate else None)
        inner: Any = trainer.lightning_module
        return traces(inner, trainer), logger, trainer


def ours(**options: Any) -> tuple[ShockWatch, ShockEarlyStopping, ShockLRController]:
    """Every callback of shockwatch, told not to act."""
    return (
        ShockWatch(**({"every_n_steps": 2, "probe": 1} | options)),
        ShockEarlyStopping(threshold=1e9),
        ShockLRController(dry_run=True),
    )


def workers(context: str) -> DataLoader[Any]:
    return points(num_workers=1, multiprocessing_context=context, persistent_workers=True)


def ema() -> list[pl.Callback]:
    return [stock.EMAWeightAveraging(decay=0.9)]


RECIPES = [
    Recipe("sgd"),
    Recipe("adamw", Adam),
    Recipe("lbfgs", SecondOrder),
    Recipe("manual", Manual),
    Recipe("dropout", lambda: Plain(nn.Dropout(0.3))),
    Recipe("batch_norm", lambda: Plain(nn.BatchNorm1d(8))),
    Recipe("accumulation", Adam, options={"accumulate_grad_batches": 3}),
    Recipe("bfloat16", options={"precision": "bf16-mixed"}),
    Recipe("bfloat16_true", options={"precision": "bf16-true"}),
    Recipe("float64", options={"precision": "64-true"}),
    Recipe("float16", HalfPrecision),
    Recipe("float16_scaled", Scaled),
    Recipe("clipped_norm", options={"gradient_clip_val": 0.1}),
    Recipe("clipped_value", options={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    Recipe("swa", callbacks=lambda: [stock.StochasticWeightAveraging(0.01, swa_epoch_start=1)]),
    Recipe("gan", Adversarial),
    Recipe("compiled_part", Compiled),
    Recipe("compiled_whole", whole_compiled),
    Recipe("validation", options={"val_check_interval": 3, "max_epochs": 3}, validate=True),
    Recipe("draws", Drawing),
    Recipe("stream", loader=lambda: DataLoader(Stream(), batch_size=8)),
    Recipe("fork", loader=lambda: workers("fork")),
    Recipe("spawn", loader=lambda: workers("spawn")),
    Recipe("freezing", Freezing),
]
if hasattr(stock, "EMAWeightAveraging"):  # not in the oldest Lightning
    RECIPES.append(Recipe("ema", callbacks=ema, options={"val_check_interval": 2}, validate=True))
