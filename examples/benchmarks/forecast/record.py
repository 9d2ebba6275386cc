"""Trains one run, probes its curvature on the way, and reads its events from what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from torch import nn

from examples.benchmarks.forecast.problems import Problem
from examples.benchmarks.forecast.settings import Setting
from shockwatch.clock import TrainingClock, pace_of
from shockwatch.curvature import AdaptedLoss, CanonicalLoss, Recycled
from shockwatch.moments import adam_moments
from shockwatch.observables import Point
from shockwatch.observables.viscosity import Viscosity
from shockwatch.pace import Pace
from shockwatch.shock.adam_path import AdamPath, adam_path
from shockwatch.shock.lookahead import shows_enough
from shockwatch.shock.probe import Probe, probe
from shockwatch.symmetry import Quotient
from shockwatch.tracing import StepLoss, trace_step

_PROMINENCE = math.log(1.2)  # of a peak of the log gradient norm
_DROP = 0.005  # share of the first loss that an event carries away
_BEYOND = 1.5  # trained over watched: what comes after the last probe must not count as a false forecast


@dataclass(frozen=True)
class Seen:
    """One probe, and the clock at it; ``pace`` is that of ``torch.optim.SGD``, ``path`` that of Adam, else None."""

    step: int
    training_time: float
    pace: Pace | None
    viscosity: float
    probe: Probe
    path: AdamPath | None = None


@dataclass
class Record:
    """A run: what was seen, and the full-batch loss, gradient norm and progress before every step."""

    family: str
    seed: int
    start: float
    steps: int
    every: int
    exact: bool = True
    seen: list[Seen] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    progress: list[list[float]] = field(default_factory=list)

    @property
    def events(self) -> list[int]:
        """Steps at which a transition is at its steepest, by the outcome alone.

        Where theory knows the stages exactly (deep linear networks, factorisation, by gradient descent): the first
        step at which each has passed its steepest point. Elsewhere: a peak of the full-batch gradient norm, smoothed
        over a quarter of the spacing of the probes, that stands out of its surroundings by a factor of 1.2 and between
        whose feet the loss falls by 0.5 % of its first value.
        """
        if self.progress and self.exact:
            return self._stages
        logs = gaussian_filter1d(np.log(np.array(self.gradients) + 1e-12), self.every / 4)
        # a run that begins on a slope has no peak there; one that ends on one has none either
        peaks, found = find_peaks(logs, prominence=_PROMINENCE)
        losses = np.array(self.losses)
        fall = losses[found["left_bases"]] - losses[found["right_bases"]]
        return [int(p) for p, f in zip(peaks, fall, strict=True) if f > _DROP * losses[0]]

    @property
    def over(self) -> float:
        """Step after which nothing comes; infinite where a known stage has not been passed at the end."""
        if self.progress and not (np.array(self.progress[-1]) > 1.0).all():
            return math.inf
        return max([0, *self.events, *self._stages])

    @property
    def _stages(self) -> list[int]:
        passed = np.array(self.progress).T > 1.0
        return sorted(int(column.argmax()) for column in passed if column.any() and not column[0])


class _Eye:
    """Probes the parameters as they are (an empty quotient).

    From a small start the layers are nearly balanced anyway, and balancing three deep linear layers at every probe
    would take longer than all the rest of the benchmark.
    """

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        self.names = [name for name, _ in model.named_parameters()]
        self.quotient = Quotient((), self.names)
        trace = trace_step(model, problem.loss, problem.data)
        self.loss = StepLoss(trace, problem.data)
        self.frozen = dict(model.named_buffers())
        self.random = torch.Generator().manual_seed(0)
        self.warm: Recycled | None = None
        self.viscosity, self.previous = Viscosity(), None

    def look(
        self, step: int, model: nn.Module, clock: TrainingClock, optimizer: torch.optim.Optimizer
    ) -> Seen:
        state = {name: p.detach().clone() for name, p in model.named_parameters()}
        point = Point(step, clock.training_time, state, state, self.quotient)
        viscosity = self.viscosity.compute(point, self.previous)["quotient/viscosity"]
        self.previous = point
        seen = probe(CanonicalLoss(self.quotient, self.loss, state, self.frozen), self.warm, self.random)
        self.warm = seen.recycled
        path = self._path(model, optimizer)
        return Seen(step, clock.training_time, pace_of(optimizer), viscosity, seen, path)

    def _path(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> AdamPath | None:
        moments = adam_moments(dict(model.named_parameters()), [optimizer])
        if moments is None:
            return None
        state = {name: p.detach() for name, p in model.named_parameters()}
        return adam_path(AdaptedLoss(self.loss, state, self.frozen, moments), enough=shows_enough)


def record(setting: Setting) -> Record:
    """Make the run, in float64."""
    problem = setting.make(setting.seed)
    model = problem.model.double()
    data = tuple(t.double() if t.is_floating_point() else t for t in problem.data)
    problem = Problem(
        model, problem.loss, (data[0], data[1]), problem.batch_size, problem.progress, problem.exact
    )
    parameters = list(model.parameters())
    optimizer = setting.optimizer(parameters)
    clock = TrainingClock()
    clock.listen([optimizer])
    eye = _Eye(problem, model)
    first_rate = optimizer.param_groups[0]["lr"]
    random = torch.Generator().manual_seed(1_000 + setting.seed)
    outcome = Record(setting.family, setting.seed, setting.start, setting.steps, setting.every)
    outcome.exact = problem.exact and pace_of(optimizer) is not None
    for step in range(round(_BEYOND * setting.steps) + 1):
        fraction = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / setting.steps)))
        optimizer.param_groups[0]["lr"] = first_rate * (setting.decay + (1.0 - setting.decay) * fraction)
        full = problem.loss(model, problem.data)
        gradient = torch.autograd.grad(full, parameters)
        outcome.losses.append(full.item())
        outcome.gradients.append(math.sqrt(sum(float(g.square().sum()) for g in gradient)))
        if problem.progress is not None:
            with torch.no_grad():
                outcome.progress.append(problem.progress(model).tolist())
        if step <= setting.steps and step % setting.every == 0:
            outcome.seen.append(eye.look(step, model, clock, optimizer))
        if problem.batch_size is not None:
            rows = torch.randperm(len(data[0]), generator=random)[: problem.batch_size]
            gradient = torch.autograd.grad(problem.loss(model, (data[0][rows], data[1][rows])), parameters)
        for parameter, slope in zip(parameters, gradient, strict=True):
            shake = torch.randn(slope.shape, generator=random, dtype=slope.dtype) if setting.noise else 0.0
            parameter.grad = slope + setting.noise * shake
        optimizer.step()
    return outcome
