"""Trains a case without any monitor and keeps what monitors need."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.benchmarks.labelled.families import Batch, Case
from examples.benchmarks.labelled.labels import Event, Outcome, diverged, events
from shockwatch.clock import TrainingClock

State = dict[str, Tensor]


@dataclass
class Recording:
    """One run: ``states[s]``, ``readings[s]`` and ``losses[s]`` after ``s`` steps (entry 0: before the first).

    ``losses`` are those of the training batches, ``outcome`` is for the labels only.
    """

    case: Case
    states: list[State]
    readings: list[TrainingClock]
    losses: list[float]
    outcome: Outcome
    events: list[Event]

    @property
    def steps(self) -> int:
        """Steps made."""
        return len(self.states) - 1


def train(case: Case) -> Recording:
    """Make the run; one that diverges ends at the step that says so."""
    model, outcome = case.model, Outcome()
    clock = TrainingClock()
    states, readings, losses = [_copy(model)], [copy.copy(clock)], [float("nan")]
    for step in range(1, case.steps + 1):
        if case.rate is not None:
            for group in case.optimizer.param_groups:
                group["lr"] = case.rate(step)
        loss = case.loss_fn(model, case.batch(step))
        case.optimizer.zero_grad()
        loss.backward()
        case.optimizer.step()
        states.append(_copy(model))
        clock.advance(case.optimizer)
        readings.append(copy.copy(clock))
        losses.append(float(loss))
        if _look(case, outcome, step):
            break
    return Recording(case, states, readings, losses, outcome, events(outcome))


def _copy(model: nn.Module) -> State:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@torch.no_grad()
def _look(case: Case, outcome: Outcome, step: int) -> bool:
    loss = float(case.loss_fn(case.model, case.data))
    end = diverged(loss, outcome.loss)
    if not outcome.loss:
        outcome.loss.append(loss)  # entry 0, before the first step, is taken to be that after it
    outcome.loss.append(loss)
    if case.hidden:
        outcome.alive.append((step, _alive(case)))
    if hasattr(case.model, "head_entropy") and (step % 5 == 1 or end):
        outcome.entropy.append((step, case.model.head_entropy(case.data[0])))
    if case.test is not None and step % 10 == 0:
        outcome.train_accuracy.append((step, _accuracy(case.model, case.data)))
        outcome.test_accuracy.append((step, _accuracy(case.model, case.test)))
    return end


def _alive(case: Case) -> list[float]:
    x, shares = case.data[0], []
    for name, part in case.model.named_children():
        x = part(x)
        if name in case.hidden:
            shares.append(float((x > 0).any(0).double().mean()))
    return shares


def _accuracy(model: nn.Module, data: Batch) -> float:
    return float((model(data[0]).argmax(-1) == data[1]).double().mean())
