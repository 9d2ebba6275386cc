"""A convolutional classifier of handwritten digits, watched.

python -m examples.image_classifier      (needs scikit-learn; half a minute)
"""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shockwatch import ShockWatch


class DigitClassifier(L.LightningModule):
    """Two convolutions with batch norm, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        scores = self.net(images)
        self.log("accuracy", (scores.argmax(1) == labels).float().mean(), prog_bar=True)
        return F.cross_entropy(scores, labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def digits() -> TensorDataset:
    """The 1,797 images of 8 x 8 pixels that come with scikit-learn."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return TensorDataset(pixels, torch.as_tensor(labels))


def run(steps: int = 600, folder: str = "shockwatch_runs") -> ShockWatch:
    """Train for ``steps`` steps; TensorBoard files under ``folder``."""
    L.seed_everything(0)
    watch = ShockWatch(every_n_steps=20, probe=5)  # the run is short: look whatever it costs
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[watch], logger=TensorBoardLogger(folder, "digits"),
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(DigitClassifier(), DataLoader(digits(), batch_size=64, shuffle=True))
    return watch


if __name__ == "__main__":
    run()
