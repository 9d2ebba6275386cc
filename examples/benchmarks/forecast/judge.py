"""Judges forecasts by the events of a run, beside three baselines."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import numpy as np

from examples.benchmarks.forecast.record import Record, Seen
from shockwatch.shock.indicators import ShockIndicators
from shockwatch.shock.slice import time_to_steepest

FORECASTERS = ("shockwatch", "gamma rule", "loss, straight line", "gradient norm, exponential")
HORIZON = 200
_GAMMA_STEPS = 50  # theory.md 5
_FIT = 4  # probes a baseline is fitted to


@dataclass
class Verdict:
    """What became of the forecasts of one run; lists by forecaster are in the order of ``FORECASTERS``.

    Attributes:
        halves: for each event, at half of its plateau: steps left, then the steps each forecaster gave.
        ahead: of every forecast of ours made at least one probe ahead: steps left, forecast, half width, evidence.
        over: step after which nothing comes.
        after: of every probe from there on: steps since then, proximity, then the steps each gave.
    """

    family: str
    seed: int
    start: float
    events: list[int]
    over: float
    halves: list[list[float]] = field(default_factory=list)
    ahead: list[list[float]] = field(default_factory=list)
    after: list[list[float]] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For JSON: rounded, NaN as null."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, entry: dict[str, object]) -> Verdict:
        """Undo :meth:`as_dict`."""
        return cls(**{name: _numbers(value) for name, value in entry.items()})  # type: ignore[arg-type]


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return (float(f"{value:.6g}") if math.isfinite(value) else None) if isinstance(value, float) else value


def _numbers(value: object) -> object:
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    return math.nan if value is None else value


def judge(run: Record) -> Verdict:
    """Replay the probes of a run through the forecasters."""
    ours = _ours(run)
    events, over = run.events, run.over
    verdict = Verdict(run.family, run.seed, run.start, events, over)
    given = [[arrival, *baselines(run, i)] for i, (arrival, _, _, _) in enumerate(ours)]
    for seen, guesses, (arrival, error, proximity, evidence) in zip(run.seen, given, ours, strict=True):
        left = min((e - seen.step for e in events if e > seen.step), default=None)
        if seen.step >= over:
            verdict.after.append([seen.step - over, proximity, *guesses])
        elif left is not None and left >= run.every and math.isfinite(arrival):
            verdict.ahead.append([left, arrival, error, evidence])
    for begin, event in zip([0, *events], events, strict=False):
        index = round((begin + event) / 2 / run.every)
        if index < len(run.seen) and run.seen[index].step < event:
            verdict.halves.append([event - run.seen[index].step, *given[index]])
    return verdict


def _ours(run: Record) -> list[tuple[float, float, float, float]]:
    indicators = ShockIndicators(HORIZON)
    rows = []
    for seen in run.seen:
        values, _ = indicators.update(
            seen.probe,
            step=seen.step,
            training_time=seen.training_time,
            time_per_step=math.nan if seen.pace is None else seen.pace.time_per_step,
            viscosity=seen.viscosity,
            pace=seen.pace,
            path=seen.path,
        )
        names = ("shock/arrival_steps", "shock/arrival_error", "shock/proximity")
        arrival, error, proximity = (values[name] for name in names)
        evidence = proximity / min(10.0, HORIZON / max(arrival, 1.0)) if math.isfinite(arrival) else 0.0
        rows.append((arrival, error, proximity, evidence))
    return rows


def baselines(run: Record, index: int) -> list[float]:
    """Steps left by the other forecasters at one probe, from what a run knows then."""
    return [_gamma_rule(run, index), _straight_line(run, index), _exponential(run, index)]


def _gamma_rule(run: Record, index: int) -> float:
    """``-ln(1 - gamma T) / gamma``, ``T`` the slice forecast, ``gamma`` the decay of ``|lambda_min|`` (theory.md 5)."""
    now = run.seen[index]
    before = _seen_before(run, index)
    if now.pace is None or now.probe.slice is None or before is None or before.probe.lambda_min >= 0.0:
        return math.nan
    time, _ = time_to_steepest(now.probe.slice)
    passed = now.training_time - before.training_time
    gamma = math.log(before.probe.lambda_min / now.probe.lambda_min) / passed
    if not gamma * time < 1.0:
        return math.nan
    drifted = -math.log1p(-gamma * time) / gamma if gamma else time
    return drifted / now.pace.time_per_step


def _seen_before(run: Record, index: int) -> Seen | None:
    earlier = run.seen[:index]
    wanted = run.seen[index].step - _GAMMA_STEPS
    return min(earlier, key=lambda seen: abs(seen.step - wanted)) if earlier else None


def _straight_line(run: Record, index: int) -> float:
    """When the loss, on the straight line through its last probes, is gone."""
    steps, losses = _recent(run, run.losses, index)
    if len(steps) < 2:
        return math.nan
    slope = float(np.polyfit(steps, losses, 1)[0])
    return losses[-1] / -slope if slope < 0.0 else math.nan


def _exponential(run: Record, index: int) -> float:
    """When the gradient norm, growing as fitted to its last probes, is twice the largest yet."""
    steps, norms = _recent(run, run.gradients, index)
    if len(steps) < 2:
        return math.nan
    rate = float(np.polyfit(steps, np.log(np.array(norms) + 1e-300), 1)[0])
    largest = max(run.gradients[seen.step] for seen in run.seen[: index + 1])
    return math.log(2.0 * largest / norms[-1]) / rate if rate > 0.0 else math.nan


def _recent(run: Record, series: list[float], index: int) -> tuple[list[int], list[float]]:
    steps = [seen.step for seen in run.seen[max(0, index + 1 - _FIT) : index + 1]]
    return steps, [series[step] for step in steps]
