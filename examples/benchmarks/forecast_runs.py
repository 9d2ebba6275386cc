"""The runs of the forecast benchmark: small models with known staged learning, and runs without any transition.

Everything is drawn from the run's own seed. A run's *events* are read from its outcome alone (``events``), by a rule
fixed before any forecast was looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from torch import Tensor, nn

Array = npt.NDArray[np.float64]
Batch = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]

SINGULAR_VALUES = (4.0, 2.0, 1.0, 0.5)
_PROMINENCE = math.log(1.2)  # of a peak of the log gradient norm
_DROP = 0.005  # share of the first loss that an event carries away


@dataclass(frozen=True)
class Problem:
    """A model at its start, its loss, its data, and the batches the optimiser sees."""

    model: nn.Module
    loss: Loss
    data: Batch
    batch_size: int | None = None


@dataclass(frozen=True)
class Setting:
    """One run of the benchmark.

    Attributes:
        family: row of the table.
        make: seed -> problem.
        optimizer: parameters -> optimiser.
        steps: length of the run.
        every: steps between two probes.
        noise: standard deviation of Gaussian noise added to every entry of the gradient.
        decay: learning-rate schedule: final over first rate, cosine; 1 is constant.
    """

    family: str
    seed: int
    make: Callable[[int], Problem]
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    steps: int
    every: int
    noise: float = 0.0
    decay: float = 1.0
    label: str = ""


@dataclass
class Outcome:
    """Full-batch loss and gradient norm before every step."""

    losses: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)

    def events(self, every: int) -> list[int]:
        """Steps at which a transition is at its steepest.

        A peak of the full-batch gradient norm, smoothed over a quarter of the spacing of the probes, that stands out of
        its surroundings by a factor of 1.2 and between whose feet the loss falls by 0.5 % of its first value.
        """
        logs = gaussian_filter1d(np.log(np.array(self.gradients) + 1e-12), every / 4)
        # a run that begins on a slope has no peak there; one that ends on one has none either
        peaks, found = find_peaks(logs, prominence=_PROMINENCE)
        losses = np.array(self.losses)
        fall = losses[found["left_bases"]] - losses[found["right_bases"]]
        return [int(p) for p, f in zip(peaks, fall, strict=True) if f > _DROP * losses[0]]


class DeepLinear(nn.Module):
    """``depth`` square linear layers without bias."""

    def __init__(self, width: int, depth: int, scale: float, random: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Student(nn.Module):
    """One hidden ReLU layer without bias, scalar output, from a small start."""

    def __init__(self, inputs: int, hidden: int, scale: float, random: torch.Generator) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden, bias=False)
        self.second = nn.Linear(hidden, 1, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(F.relu(self.first(x)))
        return out.squeeze(-1)


class Factors(nn.Module):
    """``U V^T``; the input is ignored."""

    def __init__(self, rows: int, rank: int, scale: float, random: torch.Generator) -> None:
        super().__init__()
        self.left = nn.Parameter(scale * torch.randn(rows, rank, generator=random))
        self.right = nn.Parameter(scale * torch.randn(rows, rank, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        return self.left @ self.right.T


class Induction(nn.Module):
    """Two layers of causal attention with one head and no multilayer perceptron."""

    def __init__(self, words: int, length: int, width: int, random: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.empty(length, width))
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(6))
        self.out = nn.Linear(width, words, bias=False)
        self.register_buffer("mask", torch.full((length, length), -1e9).triu(1))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) / math.sqrt(width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places
        for layer in (0, 3):
            query, key, value = (self.maps[layer + i](x) for i in range(3))
            x = x + (query @ key.transpose(1, 2) / math.sqrt(self.width) + self.mask).softmax(-1) @ value
        logits: Tensor = self.out(x)
        return logits


class Classifier(nn.Module):
    """Logistic regression (``hidden`` 0) or one tanh layer."""

    def __init__(self, inputs: int, hidden: int, classes: int, random: torch.Generator) -> None:
        super().__init__()
        self.body: nn.Module = nn.Linear(inputs, hidden) if hidden else nn.Identity()
        self.head = nn.Linear(hidden or inputs, classes)
        self.curved = hidden > 0
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.body(x)
        out: Tensor = self.head(torch.tanh(inner) if self.curved else inner)
        return out


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
    """Six wide, singular values 4, 2, 1, 0.5, whitened inputs."""

    def make(seed: int) -> Problem:
        random = _generator(seed)
        left, right = (torch.linalg.qr(torch.randn(6, 6, generator=random)).Q for _ in range(2))
        target = left[:, :4] @ torch.diag(torch.tensor(SINGULAR_VALUES)) @ right[:, :4].T
        return Problem(
            DeepLinear(6, depth, scale, random), squared_sum, (torch.eye(6), target.T.contiguous())
        )

    return make


def relu_student(seed: int) -> Problem:
    """Twelve units learn three (theory.md 5)."""
    random = _generator(seed)
    inputs, teacher = torch.randn(200, 6, generator=random), torch.randn(3, 6, generator=random)
    targets = F.relu(inputs @ F.normalize(teacher, dim=1).T).sum(1)
    return Problem(Student(6, 12, 0.02, random), squared_mean, (inputs, targets))


def staged_student(seed: int) -> Problem:
    """Twenty ReLU units learn orthogonal ridges of heights 3, 1.5 and 0.7: one after the other."""
    random = _generator(seed)
    inputs = torch.randn(300, 8, generator=random)
    frame = torch.linalg.qr(torch.randn(8, 3, generator=random)).Q
    targets = F.relu(inputs @ frame) @ torch.tensor([3.0, 1.5, 0.7])
    return Problem(Student(8, 20, 0.01, random), squared_mean, (inputs, targets))


def completion(seed: int) -> Problem:
    """A rank-3 matrix of 12 by 12 from 70 % of its entries, by factors of rank 4 from a small start."""
    random = _generator(seed)
    left, right = (torch.linalg.qr(torch.randn(12, 3, generator=random)).Q for _ in range(2))
    matrix = left @ torch.diag(torch.tensor([6.0, 3.0, 1.5])) @ right.T
    mask = (torch.rand(12, 12, generator=random) < 0.7).float()
    return Problem(Factors(12, 4, 0.01, random), observed, (mask, matrix))


def induction(seed: int) -> Problem:
    """Sequences of 17 out of eight words that repeat with a period of 4 to 8; only what is a repetition counts."""
    random = _generator(seed)
    words = torch.randint(8, (256, 17), generator=random)
    period = torch.randint(4, 9, (256, 1), generator=random)
    place = torch.arange(17).expand(256, -1)
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


def _sgd(rate: float, momentum: float = 0.0) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, rate, momentum)


def settings(seeds: int) -> Iterator[Setting]:
    """Every run of the benchmark; ``seeds`` for each setting."""
    linear = (
        (2, (0.001, 0.01, 0.05), 0.01, (2100, 1650, 1350), 30),
        (3, (0.1, 0.15, 0.25), 0.01, (3000, 2100, 1500), 45),
    )
    for seed in range(seeds):
        for depth, scales, rate, lengths, every in linear:
            for index, (scale, steps) in enumerate(zip(scales, lengths, strict=True)):
                family, make = f"deep linear, depth {depth}", deep_linear(depth, scale)
                plain = Setting(family, seed, make, _sgd(rate), steps, every, label=f"start {scale}")
                yield plain
                if index == seed % 3:
                    yield replace(plain, family=family + ", noise", noise=0.05)
                if index == (seed + 1) % 3:
                    yield replace(plain, family=family + ", momentum", optimizer=_sgd(rate / 10, 0.9))
        yield Setting(
            "deep linear, cosine schedule", seed, deep_linear(2, 0.03), _sgd(0.015), 2400, 30, decay=0.1
        )
        yield Setting(
            "deep linear, Adam", seed, deep_linear(2, 0.03), lambda p: torch.optim.Adam(p, 0.003), 300, 20
        )
        yield Setting("ReLU student", seed, relu_student, _sgd(0.01), 1800, 30)
        yield Setting("ReLU staged", seed, staged_student, _sgd(0.01), 1800, 30)
        yield Setting("matrix completion", seed, completion, _sgd(0.005), 1500, 25)
        if seed < 4:
            yield Setting("induction, momentum", seed, induction, _sgd(0.05, 0.9), 400, 16)
        yield Setting("logistic regression", seed, blobs(0), _sgd(0.1), 1000, 20)
        yield Setting("tanh classifier", seed, blobs(12), _sgd(0.1), 1000, 20)


def train(setting: Setting, watch: Callable[[int, nn.Module, torch.optim.Optimizer], None]) -> Outcome:
    """Run one setting in float64; ``watch(step, model, optimizer)`` before every step."""
    problem = setting.make(setting.seed)
    model = problem.model.double()
    data = tuple(t.double() if t.is_floating_point() else t for t in problem.data)
    parameters = list(model.parameters())
    optimizer = setting.optimizer(parameters)
    first_rate = optimizer.param_groups[0]["lr"]
    random = _generator(1_000 + setting.seed)
    outcome = Outcome()
    for step in range(setting.steps + 1):
        fraction = 0.5 * (1.0 + math.cos(math.pi * step / setting.steps))
        optimizer.param_groups[0]["lr"] = first_rate * (setting.decay + (1.0 - setting.decay) * fraction)
        full = problem.loss(model, (data[0], data[1]))
        gradient = torch.autograd.grad(full, parameters)
        outcome.losses.append(full.item())
        outcome.gradients.append(math.sqrt(sum(float(g.square().sum()) for g in gradient)))
        watch(step, model, optimizer)
        if problem.batch_size is not None:
            rows = torch.randperm(len(data[0]), generator=random)[: problem.batch_size]
            gradient = torch.autograd.grad(problem.loss(model, (data[0][rows], data[1][rows])), parameters)
        for parameter, slope in zip(parameters, gradient, strict=True):
            shake = torch.randn(slope.shape, generator=random, dtype=slope.dtype) if setting.noise else 0.0
            parameter.grad = slope + setting.noise * shake
        optimizer.step()
    return outcome
