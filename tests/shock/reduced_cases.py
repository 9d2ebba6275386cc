"""Losses with known transitions, and full-batch runs probed on the way. Vectors are flat, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jvp

from shockwatch.curvature import Recycled
from shockwatch.shock.probe import Probe, probe

Loss = Callable[[Tensor], Tensor]
SINGULAR_VALUES = (4.0, 2.0, 1.0, 0.5)


class TorchReducedLoss:
    """`ReducedLoss` of a torch function; ``projector`` is a dense symmetric matrix, ``None`` the identity."""

    def __init__(self, function: Loss, point: Tensor, projector: Tensor | None = None) -> None:
        self.function, self.point, self.projector = function, point, projector
        self.dim = point.numel()
        self.products = 0

    def project(self, vector: Tensor) -> Tensor:
        return vector if self.projector is None else self.projector @ vector

    def gradient(self) -> Tensor:
        return self.project(grad(self.function)(self.point))

    def hvp(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.project(jvp(grad(self.function), (self.point,), (self.project(vector),))[1])

    def loss(self, displacement: Tensor | None = None) -> float:
        with torch.no_grad():
            return float(self.function(self.point if displacement is None else self.point + displacement))


@dataclass(frozen=True)
class Run:
    """Probes by step, the losses of all steps, and the parameters of all steps."""

    learning_rate: float
    probes: dict[int, Probe]
    losses: list[float]
    points: list[Tensor]


def train(
    function: Loss,
    start: Tensor,
    learning_rate: float,
    steps: int,
    every: int,
    noise: float = 0.0,
    seed: int = 0,
) -> Run:
    """Gradient descent with gradient noise of standard deviation ``noise``, probed every ``every`` steps."""
    point = start.clone()
    random = torch.Generator().manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    probes: dict[int, Probe] = {}
    losses, points = [], []
    warm_start: Recycled | None = None
    for step in range(steps + 1):
        if step % every == 0:
            probes[step] = probe(TorchReducedLoss(function, point), warm_start, generator)
            warm_start = probes[step].recycled
        slope = grad(function)(point)
        with torch.no_grad():
            losses.append(float(function(point)))
        points.append(point)
        point = point - learning_rate * (
            slope + noise * torch.randn(point.shape, generator=random, dtype=point.dtype)
        )
    return Run(learning_rate, probes, losses, points)


def deep_linear(seed: int, scale: float, size: int = 6) -> tuple[Loss, Tensor]:
    """``|W2 W1 - M|^2 / 2`` with singular values 4, 2, 1, 0.5 of ``M`` on the diagonal, and a small start."""
    target = torch.zeros(size, size, dtype=torch.float64)
    target[range(4), range(4)] = torch.tensor(SINGULAR_VALUES, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        first, second = x.view(2, size, size)
        return 0.5 * ((second @ first - target) ** 2).sum()

    generator = torch.Generator().manual_seed(seed)
    return loss, scale * torch.randn(2 * size * size, generator=generator, dtype=torch.float64)


def crossings(run: Run, share: float) -> list[int]:
    """Step at which each singular value of the product reaches ``share`` of its target."""
    size = int((run.points[0].numel() / 2) ** 0.5)
    learned = torch.stack(
        [(p.view(2, size, size)[1] @ p.view(2, size, size)[0]).diagonal()[:4] for p in run.points]
    )
    reached = learned > share * torch.tensor(SINGULAR_VALUES)
    return [int(reached[:, k].nonzero()[0]) for k in range(4)]


def relu_student(seed: int) -> tuple[Loss, Tensor]:
    """12 hidden ReLU units from a small start learn 3 (theory.md 5): one plateau, one transition."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    targets = torch.relu(inputs @ (teacher / teacher.norm(dim=1, keepdim=True)).T).sum(1)

    def loss(x: Tensor) -> Tensor:
        hidden = torch.relu(inputs @ x[:72].view(12, 6).T)
        return 0.5 * ((hidden @ x[72:] - targets) ** 2).mean()

    return loss, 0.02 * torch.randn(84, generator=generator, dtype=torch.float64)


def classifier(seed: int, hidden: int) -> tuple[Loss, Tensor]:
    """Three blobs in five dimensions; logistic regression for ``hidden = 0`` (convex), else one tanh layer."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (200,), generator=generator)
    centres = 2.0 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    inputs = centres[labels] + torch.randn(200, 5, generator=generator, dtype=torch.float64)
    count = hidden * 6

    def loss(x: Tensor) -> Tensor:
        features = inputs
        if hidden:
            layer = x[:count].view(hidden, 6)
            features = torch.tanh(inputs @ layer[:, :5].T + layer[:, 5])
        out = x[count:].view(3, features.shape[1] + 1)
        return torch.nn.functional.cross_entropy(features @ out[:, :-1].T + out[:, -1], labels)

    width = hidden or 5
    return loss, 0.4 * torch.randn(count + 3 * (width + 1), generator=generator, dtype=torch.float64)
