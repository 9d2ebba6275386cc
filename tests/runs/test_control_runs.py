"""Smooth training raises no alarm: controls without a transition ahead, although the MLP's curvature stays
negative throughout (theory.md 5: negative curvature alone is not a shock). That the same watch does speak up
before a transition is in ``test_demo.py``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shockwatch import ShockWatch, session
from shockwatch.session import Update
from tests.runs.modules import Classifier, fit

STEPS, EVERY = 2000, 25


class Control(Classifier):
    """Notes when the first drop is over: a mean loss over twenty steps below half of that at the start."""

    def __init__(self, network: nn.Module, lr: float, momentum: float) -> None:
        super().__init__(network, lr=lr)
        self.momentum = momentum
        self.losses: list[float] = []

    def on_train_batch_end(self, outputs: dict[str, Tensor], batch: object, batch_idx: int) -> None:  # type: ignore[override]
        self.losses.append(float(outputs["loss"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)

    @property
    def first_drop(self) -> int:
        means = [sum(self.losses[k : k + 20]) / 20 for k in range(len(self.losses) - 19)]
        return 20 + next(k for k, mean in enumerate(means) if mean < 0.5 * means[0])


def blobs(batch: int) -> DataLoader[tuple[Tensor, ...]]:
    """Four classes that overlap a little: the loss keeps falling for the whole run."""
    g = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, 6, generator=g)
    y = torch.arange(64) % 4
    x = centres[y] + 2 * torch.randn(64, 6, generator=g)
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)


def logistic() -> nn.Module:
    return nn.Linear(6, 4)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize(
    ("network", "lr", "momentum", "batch"),
    [
        pytest.param(logistic, 0.05, 0.9, 16, id="logistic-noisy"),
        pytest.param(mlp, 0.02, 0.9, 16, id="mlp-noisy"),
        pytest.param(mlp, 0.1, 0.0, 64, id="mlp-full-batch"),
    ],
)
def test_no_alert_and_no_proximity(
    network: Callable[[], nn.Module], lr: float, momentum: float, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # room for every snapshot: what is analysed must not depend on how busy the machine is
    monkeypatch.setattr(session, "Capture", functools.partial(session.Capture, slots=STEPS // EVERY + 2))
    pl.seed_everything(0, verbose=False)
    model = Control(network(), lr, momentum)
    watch = ShockWatch(every_n_steps=EVERY, probe=1)
    updates: list[Update] = []
    watch.subscribe(updates.append)
    fit(model, blobs(batch), watch, max_steps=STEPS)

    assert len(updates) == STEPS // EVERY + 1
    assert watch.values["shockwatch/dropped"] == watch.values["shockwatch/errors"] == 0.0
    since = model.first_drop if network is mlp else 0
    assert since < 300
    late = [update for update in updates if update.step > since]
    assert [update.alerts for update in late if update.alerts] == []
    assert max(update.values["shock/proximity"] for update in late) < 1.0
    lowest = [update.values["shock/lambda_min"] for update in late]
    assert all(map(math.isfinite, lowest))
    if network is mlp:
        assert sum(value < -1e-3 for value in lowest) > len(lowest) / 2
    else:  # convex
        assert min(lowest) > -1e-6
