"""A LightningCLI program: the callbacks come from the YAML, the code below knows nothing of them.

python examples/cli.py fit --config configs/deep_linear.yaml
"""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class DeepLinear(pl.LightningModule):
    """Linear layers from a small start: they learn the target one singular value at a time."""

    def __init__(self, width: int = 8, depth: int = 2, start: float = 0.03, lr: float = 0.001) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))
        for parameter in self.layers.parameters():
            nn.init.normal_(parameter, std=start)
        self.lr = lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, outputs = batch
        residual: Tensor = self.layers(inputs) - outputs
        loss = 0.5 * residual.square().sum()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class LinearTarget(pl.LightningDataModule):
    """The columns of the identity and their images under a matrix with the given singular values."""

    def __init__(self, width: int = 8, singular_values: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.linalg.qr(torch.randn(width, width, generator=generator)).Q for _ in range(2))
        rank = len(singular_values)
        target = torch.linalg.multi_dot(
            (left[:, :rank], torch.diag(torch.tensor(singular_values)), right[:rank])
        )
        self.inputs = torch.eye(width).repeat(100, 1)
        self.outputs = torch.matmul(self.inputs, target.T)
        self.width = width

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(self.inputs, self.outputs), batch_size=self.width)


if __name__ == "__main__":
    LightningCLI(DeepLinear, LinearTarget)
