"""A small module and its data, and the type of the ``fit`` fixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Fit = Callable[..., tuple[L.Trainer, L.LightningModule]]


class Net(L.LightningModule):
    """Dropout and batch norm: whatever draws or writes must be the run's own."""

    def __init__(self, optimizer: str = "sgd", scheduler: bool = False, lr: float = 0.05) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
        )
        self.kind, self.scheduler, self.lr = optimizer, scheduler, lr
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.seen.append(batch_idx)
        self.log("train/loss", loss)
        self.print("", end="")
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", nn.functional.cross_entropy(self.net(x), y))

    def configure_optimizers(self) -> Any:
        if self.kind == "sgd":
            optimizer: Any = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        if not self.scheduler:
            return optimizer
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def data(n: int = 160, batch_size: int = 8, shuffle: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 6, generator=generator)
    y = torch.randint(0, 3, (n,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=shuffle)
