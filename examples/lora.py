"""Low-rank fine-tuning: ``B A`` may be written in many ways, GL(r) of them for each adapter.

python -m examples.lora      (a quarter of a minute)
"""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shockwatch import ShockWatch

WIDTH, RANK = 32, 4


class LoRALinear(nn.Module):
    """A frozen linear map plus ``B A`` of rank ``RANK``; ``B`` starts at zero (Hu et al. 2021)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(RANK, inputs) / inputs**0.5)
        self.b = nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.a), self.b)


class FineTuning(L.LightningModule):
    """A two-layer network of adapters learns a shifted task."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(LoRALinear(WIDTH, WIDTH), nn.GELU(), LoRALinear(WIDTH, 8))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss = F.mse_loss(self.net(inputs), targets)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.2)


def run(steps: int = 600, folder: str = "shockwatch_runs") -> ShockWatch:
    """Train for ``steps`` steps; TensorBoard files under ``folder``."""
    L.seed_everything(0)
    inputs = torch.randn(2048, WIDTH)
    targets = torch.tanh(inputs @ torch.randn(WIDTH, 8) / WIDTH**0.5)
    watch = ShockWatch(every_n_steps=20)
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[watch], logger=TensorBoardLogger(folder, "lora"),
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(FineTuning(), DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True))
    return watch


if __name__ == "__main__":
    run()
