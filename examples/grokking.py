"""Addition modulo 31: train accuracy is perfect long before test accuracy begins to rise (Power et al. 2022).

Not every transition is a shock: watch what the curvature does here, and what it does not.

python -m examples.grokking      (about a quarter of a minute)
"""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shockwatch import ShockWatch

PRIME = 31


class ModularAddition(L.LightningModule):
    """One hidden layer over both summands as one-hot vectors."""

    def __init__(self, held_out: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * PRIME, 128), nn.ReLU(), nn.Linear(128, PRIME))
        self.held_out = held_out

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, sums = batch
        if self.global_step % 25 == 0:
            with torch.no_grad():
                guesses = self.net(self.held_out[0]).argmax(1)
            self.log("test accuracy", (guesses == self.held_out[1]).float().mean(), prog_bar=True)
        return F.cross_entropy(self.net(inputs), sums)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=1.0)


def run(steps: int = 2000, folder: str = "shockwatch_runs") -> ShockWatch:
    """Train for ``steps`` steps; TensorBoard files under ``folder``."""
    L.seed_everything(0)
    pairs = torch.cartesian_prod(torch.arange(PRIME), torch.arange(PRIME))
    inputs = F.one_hot(pairs, PRIME).flatten(1).float()
    sums = pairs.sum(1) % PRIME
    shuffled = torch.randperm(len(sums))
    seen, unseen = shuffled[: len(sums) // 2], shuffled[len(sums) // 2 :]
    data = TensorDataset(inputs[seen].repeat(steps, 1, 1).flatten(0, 1), sums[seen].repeat(steps))
    watch = ShockWatch(every_n_steps=25, probe=20)  # the run is short: look whatever it costs
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[watch], logger=TensorBoardLogger(folder, "grokking"),
        enable_checkpointing=False,
    )  # fmt: skip
    model = ModularAddition((inputs[unseen], sums[unseen]))
    trainer.fit(model, DataLoader(data, batch_size=len(seen)))
    return watch


if __name__ == "__main__":
    run()
