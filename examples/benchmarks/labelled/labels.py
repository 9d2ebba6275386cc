"""The events of a run, from its outcome alone; the rule is stated in the package's docstring."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

MERGE = 30


@dataclass
class Outcome:
    """What a run did, step by step; series that do not apply are empty. Each entry: (step, value)."""

    loss: list[float] = field(default_factory=list)
    train_accuracy: list[tuple[int, float]] = field(default_factory=list)
    test_accuracy: list[tuple[int, float]] = field(default_factory=list)
    entropy: list[tuple[int, list[float]]] = field(default_factory=list)
    alive: list[tuple[int, list[float]]] = field(default_factory=list)


@dataclass(frozen=True)
class Event:
    """One labelled event."""

    kind: str
    step: int


def diverged(loss: float, losses: list[float]) -> bool:
    """Whether a loss, after these, is divergence."""
    return not math.isfinite(loss) or (len(losses) >= 5 and loss > 5 * max(losses[:5]))


def events(outcome: Outcome) -> list[Event]:
    """All events, in order, those that belong together merged."""
    found = [
        *_divergence(outcome),
        *_spikes(outcome.loss),
        *_falls("attention collapse", outcome.entropy, 0.25, relative=True),
        *_falls("dead units", outcome.alive, 0.1, relative=False),
        *_grokking(outcome),
        *_stages(outcome.loss),
    ]
    merged: list[Event] = []
    for event in sorted(found, key=lambda e: e.step):
        if not merged or event.step - merged[-1].step > MERGE:
            merged.append(event)
    return merged


def _divergence(outcome: Outcome) -> list[Event]:
    for step, loss in enumerate(outcome.loss):
        if diverged(loss, outcome.loss[:step]):
            return [Event("divergence", step)]
    return []


def _spikes(loss: list[float]) -> list[Event]:
    found: list[Event] = []
    for step in range(50, len(loss)):
        median = float(np.median(loss[step - 50 : step]))
        high = loss[step] > 3 * median
        if high and any(value < 1.5 * median for value in loss[step : step + 100]):
            found.append(Event("spike", step))
    return found


def _falls(kind: str, series: list[tuple[int, list[float]]], share: float, relative: bool) -> list[Event]:
    if not series:
        return []
    values = np.array([row for _, row in series])
    low = (values < share * (values[0] if relative else 1.0)).any(axis=1)
    if not low[-1]:
        return []
    first = len(low) - int(np.argmin(low[::-1])) if not low.all() else 0
    return [Event(kind, series[first][0])]


def _grokking(outcome: Outcome) -> list[Event]:
    learned = next((step for step, value in outcome.train_accuracy if value > 0.95), None)
    understood = next((step for step, value in outcome.test_accuracy if value > 0.5), None)
    late = learned is not None and understood is not None and understood - learned >= 100
    return [Event("grokking", int(understood or 0))] if late else []


def _stages(loss: list[float]) -> list[Event]:
    finite = np.array([value if math.isfinite(value) else np.nan for value in loss])
    if len(finite) < 40:
        return []
    smooth = np.convolve(finite, np.ones(11) / 11, mode="valid")
    drop = smooth[:-10] - smooth[10:]
    share = 1.0 - smooth[10:] / smooth[:-10]  # lost in ten steps, of the loss at their start
    found, slowest, peak, since, best = [], math.inf, 0.0, -1, math.inf
    for i, value in enumerate(share):
        if math.isnan(value):
            break
        if since < 0:
            slowest = min(slowest, max(value, 0.0))
            best = min(best, float(smooth[i]))
            if value > max(2 * slowest, 0.05):
                peak, since = value, i
            continue
        peak = max(peak, value)
        if value < peak / 2 or i == len(share) - 1:
            end = float(smooth[i + 10])
            if end < 0.9 * best and best - end > 0.005 * finite[0]:
                found.append(Event("stage", since + int(np.argmax(drop[since : i + 1])) + 10))
            slowest, since = max(value, 0.0), -1
    return found
