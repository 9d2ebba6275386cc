"""What the training thread hands to the analysis thread."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from shockwatch.pace import Pace

State = dict[str, Tensor]
"""Parameters and buffers by name, as in ``named_parameters`` and ``named_buffers``."""


@dataclass(frozen=True)
class Moments:
    """What ``torch.optim.Adam`` or ``AdamW`` holds of one parameter, and the settings of its next step.

    Attributes:
        mean, square: ``exp_avg`` and ``exp_avg_sq``, of the parameter's shape.
        largest: ``max_exp_avg_sq``, with ``amsgrad`` only.
        steps: taken so far; a tensor where a device counts them.
        rate: ``lr``.
        first, second: ``betas``.
        eps: ``eps``.
        coupled, decoupled: weight decay that enters the gradient, and that which shrinks the parameter by itself.
    """

    mean: Tensor
    square: Tensor
    largest: Tensor | None
    steps: float | Tensor
    rate: float
    first: float
    second: float
    eps: float
    coupled: float
    decoupled: float

    def tensors(self) -> list[Tensor]:
        """All it holds."""
        held = (self.mean, self.square, self.largest, self.steps)
        return [tensor for tensor in held if isinstance(tensor, Tensor)]

    def holding(self, tensors: Iterator[Tensor]) -> Moments:
        """The same with the next of ``tensors`` in place of those it holds."""
        mean, square = next(tensors), next(tensors)
        largest = None if self.largest is None else next(tensors)
        steps = next(tensors) if isinstance(self.steps, Tensor) else self.steps
        return replace(self, mean=mean, square=square, largest=largest, steps=steps)


@dataclass(frozen=True)
class Snapshot:
    """The parameters at one optimiser step, copied, and the clock of the run at that step.

    Attributes:
        step: optimiser steps taken when the copy was made.
        state: private copies of parameters and floating-point buffers.
        training_time: sum over steps of the effective learning rate `Pace.time_per_step` (theory.md 4).
        time_per_step: effective learning rate of the last step; NaN where it is not the learning
            rate that sets the clock (Adam-like optimisers).
        learning_rate: the largest ``lr`` of the optimiser's parameter groups.
        loss: the training loss of the step, None if it is not known; NaN means that it is not a number.
        stability_rate: times ``lambda_max`` it is 2 at the edge of stability, whatever the momentum; NaN where that
            edge is not one of the plain Hessian.
        weight_decay: the coefficient the optimiser couples into the gradient; NaN where it has several.
        pace: step size and momentum of ``torch.optim.SGD``; None for other optimisers.
        moments: private copies of what Adam holds, by parameter; None for other optimisers, and where no probe could
            follow. A parameter that is not in it has never had a gradient.
    """

    step: int
    state: State
    training_time: float
    time_per_step: float
    learning_rate: float
    loss: float | None
    stability_rate: float = math.nan
    weight_decay: float = 0.0
    pace: Pace | None = None
    moments: dict[str, Moments] | None = None


@dataclass(frozen=True)
class Picture:
    """An image for the log: PNG data, width and height in pixels."""

    tag: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Observation:
    """The scalars computed from one snapshot, by tag, what has to be said about them, and pictures of an event.

    Attributes:
        error: the first error of a part of the analysis; ``values`` holds what the other parts gave.
    """

    step: int
    values: dict[str, float]
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    error: Exception | None = None
