"""A recorded run as monitors see it, plain or in random gauges; the baselines, each gives the steps of its alerts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from examples.benchmarks.labelled.record import Recording, State
from shockwatch.phase.change_point import ChangePointDetector
from shockwatch.phase.early_warning import autocorrelation, trend, variance
from shockwatch.symmetry import infer_symmetries

PAUSE = 50  # steps for which a baseline keeps silent after an alert


@dataclass
class View:
    """A recorded run as a monitor sees it: parameters after each step, in some gauge, and their gradients' norms."""

    recording: Recording
    states: list[State]
    gradients: list[float]
    every: int


def plain(recording: Recording) -> View:
    """The run as it was."""
    return _view(recording, recording.states)


def gauged(recording: Recording, seed: int) -> View:
    """The run in a random gauge that changes at four random steps."""
    case = recording.case
    restored = {name: tensor.clone() for name, tensor in recording.states[0].items()}
    with torch.no_grad():
        for name, parameter in case.model.named_parameters():
            parameter.copy_(restored[name])
    quotient = infer_symmetries(case.model, case.loss_fn, case.data)
    g = torch.Generator().manual_seed(seed)
    cuts = torch.randint(1, recording.steps + 1, (4,), generator=g).sort().values
    states = []
    for step, state in enumerate(recording.states):
        segment = int((cuts <= step).sum())
        element = torch.Generator().manual_seed(1000 * seed + segment)
        states.append(quotient.random_transform(state, element, 0.5) if segment else state)
    return _view(recording, states)


def _view(recording: Recording, states: list[State]) -> View:
    case = recording.case
    gradients = [math.nan]
    for step in range(1, len(states)):
        grads = _gradient(case.model, case.loss_fn, case.batch(step), states[step - 1])
        gradients.append(math.sqrt(sum(float(g.square().sum()) for g in grads)))
    return View(recording, states, gradients, case.every)


def _gradient(model: nn.Module, loss_fn: Callable, batch: object, state: State) -> tuple[Tensor, ...]:
    point = {name: tensor.detach().requires_grad_() for name, tensor in state.items()}
    loss = loss_fn(lambda x: functional_call(model, point, (x,)), batch)
    return torch.autograd.grad(loss, list(point.values()))


def snapshots(view: View) -> list[int]:
    """Steps at which monitors that look now and then do look."""
    return [1, *range(view.every, view.recording.steps + 1, view.every)]


def gradient_zscore(view: View) -> list[int]:
    """The gradient's norm is four standard deviations above its mean over the last 100 steps (at least 25)."""
    found: list[int] = []
    for step in range(26, len(view.gradients)):
        past = np.array(view.gradients[max(1, step - 100) : step])
        now = view.gradients[step]
        if not math.isfinite(now) or now > past.mean() + 4 * past.std():
            _add(found, step)
    return found


def raw_norm(view: View) -> list[int]:
    """A change point of the raw parameter norm: the same detector as ours, one false alarm in 10,000 steps."""
    detector, found = ChangePointDetector(10_000 / view.every), []
    for step in snapshots(view):
        norm = math.sqrt(sum(float(t.square().sum()) for t in view.states[step].values()))
        if not math.isfinite(norm) or (norm > 0 and detector.update(float(step), math.log(norm))):
            _add(found, step)
    return found


def loss_spike(view: View) -> list[int]:
    """Lightning's ``SpikeDetection``: up, and off its mean over ten steps by twice that mean.

    Its defaults, but for a warm-up of 25 steps.
    """
    found: list[int] = []
    losses = view.recording.losses
    for step in range(26, len(losses)):
        mean = float(np.mean(losses[step - 10 : step]))
        up = losses[step] > losses[step - 1] and abs(losses[step] - mean) > 2 * abs(mean)
        if up or not math.isfinite(losses[step]):
            _add(found, step)
    return found


def raw_curvature(view: View) -> list[int]:
    """``lr * lambda_max >= 2 (1 + momentum)`` on the raw parameters at two snapshots running; 20 power steps."""
    case, found, count = view.recording.case, [], 0
    if math.isnan(view.recording.readings[-1].stability_rate):
        return found
    vector: list[Tensor] | None = None
    for step in snapshots(view):
        point = {name: t.detach().requires_grad_() for name, t in view.states[step].items()}
        loss = case.loss_fn(lambda x, p=point: functional_call(case.model, p, (x,)), case.data)
        grads = torch.autograd.grad(loss, list(point.values()), create_graph=True)
        g = torch.Generator().manual_seed(0)
        vector = vector or [torch.randn(t.shape, generator=g, dtype=t.dtype) for t in grads]
        top = 0.0
        for _ in range(20):
            norm = math.sqrt(sum(float(v.square().sum()) for v in vector))
            if not 0 < norm < math.inf:
                break
            unit = [v / norm for v in vector]
            vector = list(torch.autograd.grad(grads, list(point.values()), unit, retain_graph=True))
            top = sum(float((u * v).sum()) for u, v in zip(unit, vector, strict=True))
        if not all(bool(torch.isfinite(v).all()) for v in vector):
            vector = None
        count = count + 1 if view.recording.readings[step].stability_rate * top >= 2 else 0
        if count == 2:
            _add(found, step)
    return found


def loss_warning(view: View) -> list[int]:
    """Early-warning statistics of the loss: over ten windows of 50 steps, variance and lag-1 autocorrelation of
    the detrended loss both rise (Kendall's tau above 0.7)."""
    found, past = [], []
    losses = view.recording.losses
    for step in range(50, len(losses), 10):
        window = losses[step - 49 : step + 1]
        if not all(map(math.isfinite, window)):
            break
        past.append((variance(range(50), window), autocorrelation(range(50), window)))
        if len(past) >= 10 and all(trend(range(10), [p[k] for p in past[-10:]]) > 0.7 for k in (0, 1)):
            _add(found, step)
    return found


def _add(found: list[int], step: int) -> None:
    if not found or step - found[-1] >= PAUSE:
        found.append(step)


BASELINES: dict[str, Callable[[View], list[int]]] = {
    "gradient-norm z-score": gradient_zscore,
    "raw-norm change point": raw_norm,
    "loss spike (SpikeDetection)": loss_spike,
    "lr * lambda_max, raw": raw_curvature,
    "early warning on the loss": loss_warning,
}
