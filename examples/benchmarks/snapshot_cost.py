"""What a snapshot and a probe cost, against one training step and one plain copy of the parameters.

Milliseconds are CPU time of one thread, so that neighbours on the machine do not count.
Run with ``OMP_NUM_THREADS=1 python examples/benchmarks/snapshot_cost.py``; as the worker thread, it uses one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.engine import Engine
from shockwatch.snapshot import Snapshot

Batch = tuple[Tensor, Tensor]
LossFunction = Callable[[nn.Module, Batch], Tensor]

_EVERY = 5  # training steps between two snapshots
_WORDS = 64


class CharTransformer(nn.Module):
    """Four pre-norm causal layers, ``d`` 128, four heads; tokens ``(n, t)`` to logits ``(n, t, 64)``."""

    def __init__(self, width: int = 128, context: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(_WORDS, width)
        self.place = nn.Parameter(0.02 * torch.randn(context, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, _WORDS, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place
        for layer in self.layers:
            x = layer(x, src_mask=self.mask)
        logits: Tensor = self.head(self.norm(x))
        return logits


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut; ``(n, c, h, w)`` to ``(n, out, h / stride, w / stride)``."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(width, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.short(x))


def mlp() -> nn.Module:
    """64-512-512-10, ReLU."""
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def cnn() -> nn.Module:
    """A small residual network on 32x32 images."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Residual(32, 32, 1),
        Residual(32, 64, 2),
        Residual(64, 128, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def classify(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy over the last axis of the logits."""
    logits = model(batch[0])
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1))


@dataclass(frozen=True)
class Case:
    """A model to be measured: how to make it, and its batch."""

    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]


CASES = (
    Case("MLP 64-512-512-10, batch 128", mlp, lambda: (torch.randn(128, 64), torch.randint(10, (128,)))),
    Case(
        "transformer 4x128, 16x64 tokens",
        CharTransformer,
        lambda: (torch.randint(_WORDS, (16, 64)), torch.randint(_WORDS, (16, 64))),
    ),
    Case(
        "residual CNN, 32 images 32x32",
        cnn,
        lambda: (torch.randn(32, 3, 32, 32), torch.randint(10, (32,))),
    ),
)


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds (medians), the number of parameters, and what the first snapshot took."""

    parameters: int
    step: float
    copy: float
    first: float
    snapshot: float
    probe: float


def _milliseconds(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def measure(case: Case, snapshots: int = 8, probes: int = 2) -> Cost:
    """Train a little, and time what the engine does with every fifth step."""
    torch.manual_seed(0)
    model, batch = case.make(), case.batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    engine = Engine.build(model, classify, batch, horizon=200, seed=0, probe=True)
    count = 0

    def step() -> None:
        optimizer.zero_grad()
        classify(model, batch).backward()
        optimizer.step()

    def copy() -> dict[str, Tensor]:
        tensors = (*model.named_parameters(), *model.named_buffers())
        return {n: t.detach().clone() for n, t in tensors if t.is_floating_point()}

    def process(probe: bool) -> float:
        nonlocal count
        for _ in range(_EVERY):
            step()
        count += _EVERY
        taken = Snapshot(count, copy(), 0.02 * count, 0.02, 0.02, 1.0)
        return _milliseconds(lambda: engine.process(taken, probe), 1)

    first = process(False)
    process(False)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        step=_milliseconds(step, 20),
        copy=_milliseconds(copy, 50),
        first=first,
        snapshot=statistics.median(process(False) for _ in range(snapshots)),
        probe=statistics.median(process(True) for _ in range(probes)) if probes else math.nan,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--probes", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'model':34} {'parameters':>10} {'step':>8} {'first':>9} {'snapshot':>9} {'steps':>6} {'copies':>7} "
        f"{'probe':>9} {'steps':>6}   (CPU milliseconds)"
    )
    for case in CASES:
        if chosen.only in case.name:
            cost = measure(case, probes=chosen.probes)
            print(
                f"{case.name:34} {cost.parameters:10d} {cost.step:8.2f} {cost.first:9.1f} {cost.snapshot:9.2f} "
                f"{cost.snapshot / cost.step:6.2f} {cost.snapshot / cost.copy:7.1f} {cost.probe:9.1f} "
                f"{cost.probe / cost.step:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
