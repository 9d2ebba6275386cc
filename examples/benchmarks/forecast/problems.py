"""The problems of the forecast benchmark: staged learning of known stages, and learning without any stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.benchmarks.forecast.models import Classifier, DeepLinear, Factors, Induction, Student

Batch = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]

SINGULAR_VALUES = (4.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True)
class Problem:
    """A model at its start, its loss, its data, and the batches the optimiser sees.

    Attributes:
        progress: what is learned of each stage over what its steepest point takes, where theory knows it: a stage is
            passed when its entry passes 1.
        exact: whether it is steepest there, or only begun for certain.
    """

    model: nn.Module
    loss: Loss
    data: Batch
    batch_size: int | None = None
    progress: Callable[[nn.Module], Tensor] | None = None
    exact: bool = True


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squared_sum(model: nn.Module, batch: Batch) -> Tensor:
    return 0.5 * (model(batch[0]) - batch[1]).square().sum()


def squared_mean(model: nn.Module, batch: Batch) -> Tensor:
    return 0.5 * (model(batch[0]) - batch[1]).square().mean()


def observed(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error over the observed entries; ``batch[0]`` is the mask."""
    return 0.5 * (batch[0] * (model(batch[0]) - batch[1])).square().sum()


def classify(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def repeated(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy over the words that could be known."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=-100)


def deep_linear(depth: int, scale: float) -> Callable[[int], Problem]:
    """Six wide, singular values ``s`` of 4, 2, 1, 0.5, whitened inputs.

    A balanced mode ``a = x^depth`` goes down ``(s - a)^2 / 2``, steepest at ``a = s (depth - 1) / (2 depth - 1)``.
    """

    def make(seed: int) -> Problem:
        random = _generator(seed)
        left, right = (torch.linalg.qr(torch.randn(6, 6, generator=random)).Q for _ in range(2))
        target = left[:, :4] @ torch.diag(torch.tensor(SINGULAR_VALUES)) @ right[:, :4].T
        steepest = (depth - 1) / (2 * depth - 1) * torch.tensor(SINGULAR_VALUES)

        def progress(model: nn.Module) -> Tensor:
            product = model(torch.eye(6, dtype=torch.float64)).T
            return (left[:, :4].double().T @ product @ right[:, :4].double()).diagonal() / steepest

        data = (torch.eye(6), target.T.contiguous())
        return Problem(DeepLinear(6, depth, scale, random), squared_sum, data, progress=progress)

    return make


def relu_student(seed: int) -> Problem:
    """Twelve units learn three (theory.md 5)."""
    random = _generator(seed)
    inputs, teacher = torch.randn(200, 6, generator=random), torch.randn(3, 6, generator=random)
    targets = F.relu(inputs @ F.normalize(teacher, dim=1).T).sum(1)
    return Problem(Student(6, 12, 0.02, random), squared_mean, (inputs, targets))


def relu_batches(seed: int) -> Problem:
    """The same in mini-batches of 32."""
    return replace(relu_student(seed), batch_size=32)


def staged_student(seed: int) -> Problem:
    """Twenty ReLU units learn orthogonal ridges of heights 3, 1.5 and 0.7: one after the other."""
    random = _generator(seed)
    inputs = torch.randn(300, 8, generator=random)
    frame = torch.linalg.qr(torch.randn(8, 3, generator=random)).Q
    targets = F.relu(inputs @ frame) @ torch.tensor([3.0, 1.5, 0.7])
    return Problem(Student(8, 20, 0.01, random), squared_mean, (inputs, targets))


def factorisation(observed_share: float) -> Callable[[int], Problem]:
    """A rank-3 matrix of 12 by 12 by factors of rank 4 from a small start, from all or some of its entries.

    A stage is steepest at a third of its singular value, as for two linear layers; with entries missing only about so.
    """

    def make(seed: int) -> Problem:
        random = _generator(seed)
        left, right = (torch.linalg.qr(torch.randn(12, 3, generator=random)).Q for _ in range(2))
        values = torch.tensor([6.0, 3.0, 1.5])
        mask = (torch.rand(12, 12, generator=random) < observed_share).float()

        def progress(model: nn.Module) -> Tensor:
            product = left.double().T @ model(mask.double()) @ right.double()
            return product.diagonal() / (values / 3.0)

        data = (mask, left @ torch.diag(values) @ right.T)
        exact = observed_share == 1.0
        return Problem(Factors(12, 4, 0.01, random), observed, data, progress=progress, exact=exact)

    return make


def induction(seed: int) -> Problem:
    """Sequences of 17 out of eight words that repeat with a period of 4 to 8; only what is a repetition counts."""
    random = _generator(seed)
    words = torch.randint(8, (128, 17), generator=random)
    period = torch.randint(4, 9, (128, 1), generator=random)
    place = torch.arange(17).expand(128, -1)
    tokens = words.gather(1, place % period)
    targets = torch.where(place > period, tokens, -100)
    return Problem(Induction(8, 16, 16, random), repeated, (tokens[:, :-1], targets[:, 1:]))


def blobs(hidden: int) -> Callable[[int], Problem]:
    """Three Gaussian clouds in five dimensions, mini-batches of 32."""

    def make(seed: int) -> Problem:
        random = _generator(seed)
        labels = torch.randint(0, 3, (240,), generator=random)
        centres = 2.0 * torch.randn(3, 5, generator=random)
        inputs = centres[labels] + torch.randn(240, 5, generator=random)
        return Problem(Classifier(5, hidden, 3, random), classify, (inputs, labels), 32)

    return make
