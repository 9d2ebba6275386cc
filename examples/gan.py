"""A GAN with two optimisers and manual optimisation: tell shockwatch which loss to probe.

python -m examples.gan      (a quarter of a minute)
"""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shockwatch import ShockWatch

NOISE = 4


class RingGAN(L.LightningModule):
    """The generator learns to put its points on a circle."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(NOISE, 32), nn.ReLU(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        generator_optimizer, critic_optimizer = self.optimizers()
        critic_loss = judge(self, batch)
        critic_optimizer.zero_grad()
        self.manual_backward(critic_loss)
        critic_optimizer.step()
        generator_loss = F.softplus(-self.critic(self.generator(batch[1]))).mean()
        generator_optimizer.zero_grad()
        self.manual_backward(generator_loss)
        generator_optimizer.step()
        self.log_dict({"critic": critic_loss, "generator": generator_loss}, prog_bar=True)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (self.generator, self.critic)]


def judge(model: RingGAN, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The critic's loss: what is real should score high, what is made low."""
    real, noise = batch
    return F.softplus(-model.critic(real)).mean() + F.softplus(model.critic(model.generator(noise))).mean()


def run(steps: int = 1000, folder: str = "shockwatch_runs") -> ShockWatch:
    """Train for ``steps`` steps of both optimisers together; TensorBoard files under ``folder``."""
    L.seed_everything(0)
    angles = 2 * torch.pi * torch.rand(4096)
    ring = torch.stack([angles.cos(), angles.sin()], 1)
    # Lightning counts every step of every optimiser.
    watch = ShockWatch(every_n_steps=100, probe=5, loss_fn=judge)  # the run is short: look whatever it costs
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[watch], logger=TensorBoardLogger(folder, "gan"),
        enable_checkpointing=False,
    )  # fmt: skip
    data = TensorDataset(ring, torch.randn(4096, NOISE))
    trainer.fit(RingGAN(), DataLoader(data, batch_size=64, shuffle=True))
    return watch


if __name__ == "__main__":
    run()
