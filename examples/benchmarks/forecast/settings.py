"""The runs of the forecast benchmark. Everything is drawn from a run's own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from examples.benchmarks.forecast.problems import (
    Problem,
    blobs,
    deep_linear,
    factorisation,
    induction,
    relu_batches,
    relu_student,
    staged_student,
)

Maker = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Setting:
    """One run of the benchmark.

    Attributes:
        family: row of the table.
        start: scale of the start, where the family has several.
        make: seed -> problem.
        optimizer: parameters -> optimiser.
        steps: length of the part that is watched; half as much again is trained to see what comes.
        every: steps between two probes.
        noise: standard deviation of Gaussian noise added to every entry of the gradient.
        decay: learning-rate schedule: final over first rate, cosine; 1 is constant.
    """

    family: str
    seed: int
    start: float
    make: Callable[[int], Problem]
    optimizer: Maker
    steps: int
    every: int
    noise: float = 0.0
    decay: float = 1.0


def _sgd(rate: float, momentum: float = 0.0) -> Maker:
    return lambda parameters: torch.optim.SGD(parameters, rate, momentum)


def _adam(rate: float) -> Maker:
    return lambda parameters: torch.optim.Adam(parameters, rate)


# depth: starts and the length of plain runs from them, learning rate, steps between probes
_LINEAR = {
    2: (((0.001, 2100), (0.01, 1650), (0.05, 1350)), 0.01, 30),
    3: (((0.1, 3000), (0.15, 2100), (0.25, 1500)), 0.01, 45),
}


def settings(seeds: int) -> Iterator[Setting]:
    """Every run of the benchmark; ``seeds`` for each setting."""
    for seed in range(seeds):
        for depth, (starts, rate, every) in _LINEAR.items():
            for start, steps in starts:
                name, make = f"deep linear, depth {depth}", deep_linear(depth, start)
                yield Setting(name, seed, start, make, _sgd(rate), steps, every)
                yield Setting(f"{name}, noise", seed, start, make, _sgd(rate), steps, every, noise=0.05)
                yield Setting(f"{name}, momentum", seed, start, make, _sgd(rate / 10, 0.9), steps, every)
                yield Setting(f"{name}, Adam", seed, start, make, _adam(0.003), 400, 20)
        cosine = "deep linear, cosine schedule"
        yield Setting(cosine, seed, 0.03, deep_linear(2, 0.03), _sgd(0.015), 2400, 30, decay=0.1)
        yield Setting("ReLU student", seed, 0.02, relu_student, _sgd(0.01), 1800, 30)
        yield Setting("ReLU student, Adam", seed, 0.02, relu_student, _adam(0.002), 600, 20)
        yield Setting("ReLU student, Adam, batches", seed, 0.02, relu_batches, _adam(0.002), 600, 20)
        yield Setting("ReLU staged", seed, 0.01, staged_student, _sgd(0.01), 1800, 30)
        yield Setting("matrix factorisation", seed, 0.01, factorisation(1.0), _sgd(0.005), 1000, 25)
        yield Setting("matrix factorisation, Adam", seed, 0.01, factorisation(1.0), _adam(0.003), 600, 20)
        yield Setting("matrix completion", seed, 0.01, factorisation(0.7), _sgd(0.005), 1500, 25)
        yield Setting("induction, momentum", seed, 1.0, induction, _sgd(0.05, 0.9), 400, 16)
        yield Setting("logistic regression", seed, 1.0, blobs(0), _sgd(0.1), 1000, 20)
        yield Setting("logistic regression, Adam", seed, 1.0, blobs(0), _adam(0.01), 1000, 20)
        yield Setting("tanh classifier, Adam", seed, 1.0, blobs(12), _adam(0.01), 1000, 20)
        yield Setting("tanh classifier", seed, 1.0, blobs(12), _sgd(0.1), 1000, 20)
