"""Shockwatch on a recorded run: the values of every snapshot, computed once, and their alerts, judged often."""

from __future__ import annotations

from typing import Any

import torch

from examples.benchmarks.labelled.monitors import View, snapshots
from shockwatch.alerts import AlertManager
from shockwatch.engine import Engine
from shockwatch.phase import PhaseIndicators
from shockwatch.snapshot import Snapshot

Seen = dict[str, Any]
"""One snapshot: its step, loss (None: unknown), whether all parameters are finite, and the scalars by tag."""

_JUDGED = ("phase/", "/collapse_steps")


def observe(view: View) -> list[Seen]:
    """The scalars of every snapshot, a probe at each, on default settings; those of the phase are left out."""
    case, recording = view.recording.case, view.recording
    engine = Engine.build(case.model, case.loss_fn, case.data, horizon=200, seed=0, probe=True)
    seen: list[Seen] = []
    for step in snapshots(view):
        state = {name: tensor.clone() for name, tensor in view.states[step].items()}
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
        reading = recording.readings[step]
        loss = recording.losses[step]
        snapshot = Snapshot(
            step, state, reading.training_time, reading.time_per_step, reading.learning_rate, loss,
            reading.stability_rate, reading.weight_decay, reading.pace,
        )  # fmt: skip
        observation = engine.process(snapshot, True)
        if observation.error is not None:
            error = observation.error
            print(f"    a part failed at step {step}: {type(error).__name__}: {error}", flush=True)
        values = {t: v for t, v in observation.values.items() if not any(part in t for part in _JUDGED)}
        seen.append({"step": step, "loss": loss, "finite": finite, "values": values})
    return seen


def judge(seen: list[Seen]) -> list[tuple[int, str]]:
    """Step and name of the alerts of the default rules on the default indicators."""
    phase, manager, alerts = PhaseIndicators(), AlertManager(), []
    for one in seen:
        step, values = one["step"], dict(one["values"])
        values |= phase.update(step, values, loss=one["loss"], finite=one["finite"])
        alerts += [(step, alert.name) for alert in manager.update(step, values)]
    return alerts
