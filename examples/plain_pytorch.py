"""The same watch without Lightning.

python -m examples.plain_pytorch && tensorboard --logdir shockwatch_runs
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from shockwatch import ShockMonitor


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """What is minimised; shockwatch calls it on private copies of the model."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets)


def run(steps: int = 2000, folder: str = "shockwatch_runs") -> ShockMonitor:
    """A ReLU student from a small start learns its teacher; TensorBoard files under ``folder``."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 1))
    student = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 1))
    for parameter in student.parameters():
        parameter.data.mul_(0.1)
    inputs = torch.randn(256, 8)
    batch = (inputs, teacher(inputs).detach())
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    writer = SummaryWriter(f"{folder}/plain")
    # the run is short: look whatever it costs
    with ShockMonitor(student, loss_fn, optimizer, every_n_steps=20, probe=1, writer=writer) as monitor:
        for _ in range(steps):
            loss = loss_fn(student, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(batch, loss)
    writer.close()
    return monitor


if __name__ == "__main__":
    for alert in run().alerts:
        print(alert.step, alert.name, alert.message)
