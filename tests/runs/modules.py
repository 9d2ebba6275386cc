"""Stock Lightning code: three models as a user would have them before adding the callback."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(pl.LightningModule):
    """Cross-entropy on whatever the network gives."""

    def __init__(self, network: nn.Module, optimizer: str = "sgd", lr: float = 0.05) -> None:
        super().__init__()
        self.network = network
        self.optimizer, self.lr = optimizer, lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.network(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "adamw":
            return torch.optim.AdamW(self.parameters(), lr=self.lr)
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Tokens(nn.Module):
    """Embedding, a causal Transformer layer, a head on the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 12)
        self.layer = nn.TransformerEncoderLayer(12, 3, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.layer(self.embedding(x), src_mask=mask, is_causal=True)[:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.1), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(20, 4),
    )  # fmt: skip


NETWORKS = {"mlp": mlp, "cnn": cnn, "transformer": Tokens}


def data(name: str, count: int = 64, batch: int = 16) -> DataLoader[Any]:
    g = torch.Generator().manual_seed(1)
    x: Tensor
    if name == "transformer":
        x = torch.randint(0, 11, (count, 5), generator=g)
    else:
        x = torch.randn((count, 6) if name == "mlp" else (count, 1, 8, 8), generator=g)
    y = torch.randint(0, 4, (count,), generator=g)
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)


def build(name: str, optimizer: str = "sgd", seed: int = 0) -> Classifier:
    pl.seed_everything(seed, verbose=False)
    return Classifier(NETWORKS[name](), optimizer)


def fit(
    module: pl.LightningModule, loader: DataLoader[Any], *callbacks: pl.Callback, **options: Any
) -> pl.Trainer:
    """Train quietly on the CPU."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(callbacks=list(callbacks), **(quiet | options))
    trainer.fit(module, loader)
    return trainer


@dataclass(frozen=True)
class Traces:
    """All that a run leaves behind."""

    model: dict[str, Tensor]
    optimizer: list[dict[str, Any]]
    generators: tuple[Any, ...]


def traces(module: pl.LightningModule, trainer: pl.Trainer) -> Traces:
    generators = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    model = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    return Traces(model, [copy.deepcopy(o.state_dict()) for o in trainer.optimizers], generators)


def same(one: Any, other: Any) -> bool:
    """Equality to the last bit, NaN equal to NaN, through containers."""
    if isinstance(one, Tensor):
        return (
            one.shape == other.shape
            and one.dtype == other.dtype
            and (one.equal(other) or _same_with_nan(one, other))
        )
    if isinstance(one, Traces):
        return same(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def _same_with_nan(one: Tensor, other: Tensor) -> bool:
    return (
        one.is_floating_point()
        and torch.equal(one.isnan(), other.isnan())
        and torch.equal(one.nan_to_num(), other.nan_to_num())
    )
