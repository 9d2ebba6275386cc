"""Analyses that are no analysis: for tests of what surrounds it."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch

from shockwatch.snapshot import Observation, Snapshot


class FakeAnalysis:
    """Reports norm, loss and clock of each snapshot; may be slow, wait for permission, or fail."""

    sketched = False
    reads_moments = True
    probe_seconds = 0.0

    def __init__(
        self, seconds: float = 0.0, fail_at: set[int] | None = None, proximity: float = 0.25
    ) -> None:
        self.seconds = seconds
        self.fail_at = fail_at or set()
        self.proximity = proximity
        self.probes: list[int] = []
        self.steps: list[int] = []
        self.norms: dict[int, float] = {}
        self.threads: set[str] = set()
        self.openmp: set[int] = set()
        self.gate: threading.Event | None = None
        self.entered = threading.Event()
        self.loaded: dict[str, Any] | None = None
        self.snapshots: list[Snapshot] = []
        self.prepared: int | None = None

    def prepare(self, snapshot: Snapshot) -> None:
        self.prepared = snapshot.step

    def process(self, snapshot: Snapshot, probe: bool) -> Observation:
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        self.threads.add(threading.current_thread().name)
        self.openmp.add(torch.get_num_threads())
        time.sleep(self.seconds)
        if snapshot.step in self.fail_at:
            raise ZeroDivisionError(f"at step {snapshot.step}")
        norm = float(sum(t.double().square().sum() for t in snapshot.state.values())) ** 0.5
        self.steps.append(snapshot.step)
        self.norms[snapshot.step] = norm
        self.snapshots.append(snapshot)
        values = {"quotient/norm": norm, "raw/norm": norm, "quotient/speed": float("nan")}
        notes: tuple[str, ...] = ()
        if probe:
            self.probes.append(snapshot.step)
            values |= {"shock/proximity": self.proximity, "shock/lambda_max": 3.0}
            notes = (f"probed <{snapshot.step}>",)
        return Observation(snapshot.step, values, notes)

    def state_dict(self) -> dict[str, Any]:
        return {"count": len(self.steps), "tensor": torch.ones(2)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state
