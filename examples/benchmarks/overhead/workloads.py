"""The three workloads on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from examples.benchmarks.snapshot_cost import Batch, CharTransformer, Residual, classify, mlp


@dataclass(frozen=True)
class Workload:
    """What is trained: ``steps`` of ``optimizer`` on batches ``batch(generator)``; the loss is ``classify``."""

    name: str
    what: str
    steps: int
    make: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    optimizer: Callable[[nn.Module], Optimizer]

    def model(self) -> nn.Module:
        """The same weights every time."""
        torch.manual_seed(0)
        return self.make()

    def batches(self, steps: int) -> Iterator[Batch]:
        """The same batches every time."""
        generator = torch.Generator().manual_seed(1)
        return (self.batch(generator) for _ in range(steps))


def resnet() -> nn.Module:
    """Four stages of two residual blocks, as ResNet-18, at a quarter of its width; 32x32 images to ten logits."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for out, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        layers += [Residual(width, out, stride), Residual(out, out, 1)]
        width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


_DIGITS = load_digits(return_X_y=True)
_IMAGES = torch.tensor(_DIGITS[0], dtype=torch.float32) / 16.0
_LABELS = torch.tensor(_DIGITS[1])


def _digits(generator: torch.Generator) -> Batch:
    chosen = torch.randint(len(_LABELS), (128,), generator=generator)
    return _IMAGES[chosen], _LABELS[chosen]


def _text(generator: torch.Generator) -> Batch:
    """A noisy counter: the next of 64 words is one further, except for one in ten."""
    start = torch.randint(64, (16, 1), generator=generator)
    words = (start + torch.arange(65)) % 64
    noise = torch.rand(words.shape, generator=generator) < 0.1
    words = torch.where(noise, torch.randint(64, words.shape, generator=generator), words)
    return words[:, :-1].contiguous(), words[:, 1:].contiguous()


_PATTERNS = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def _pictures(generator: torch.Generator) -> Batch:
    """One of ten patterns under noise."""
    labels = torch.randint(10, (32,), generator=generator)
    noise: Tensor = torch.randn(32, 3, 32, 32, generator=generator)
    return 0.5 * _PATTERNS[labels] + noise, labels


WORKLOADS = (
    Workload(
        "W1",
        "MLP 64-512-512-10 on digits, batch 128, SGD",
        15_000,
        mlp,
        _digits,
        lambda model: SGD(model.parameters(), 0.05),
    ),
    Workload(
        "W2",
        "GPT, 4 layers, d 128, context 64, batch 16, Adam",
        800,
        CharTransformer,
        _text,
        lambda model: Adam(model.parameters(), 1e-3),
    ),
    Workload(
        "W3",
        "ResNet-18 at a quarter of its width, 32x32, batch 32, SGD",
        650,
        resnet,
        _pictures,
        lambda model: SGD(model.parameters(), 0.05, momentum=0.9),
    ),
)

__all__ = ["WORKLOADS", "Workload", "classify"]
