"""Runs with and without, in turn, and what their ratios say."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.benchmarks.overhead.tools import EVERY, Tool
from examples.benchmarks.overhead.trainer import fit, quantile
from examples.benchmarks.overhead.workloads import Workload

Row = dict[str, Any]


def watched(
    workload: Workload, steps: int, pairs: int, clock: Callable[[], float] = time.perf_counter
) -> Row:
    """``ShockWatch()`` under the trainer; milliseconds, and ratios with / without."""
    without, with_ = [], []
    for number in range(pairs):
        for on in (False, True) if number % 2 == 0 else (True, False):
            (with_ if on else without).append(fit(workload, steps, on, clock))
    wall = [a.wall / b.wall for a, b in zip(with_, without, strict=True)]
    late = [a.late / b.late for a, b in zip(with_, without, strict=True)]
    cpu = [a.cpu / b.cpu for a, b in zip(with_, without, strict=True)]
    step = statistics.median(run.step for run in without)
    # the first holds the trace of the step
    stalls = [stall for run in with_ for stall in run.stalls[1:]]
    return {
        "workload": workload.name,
        "what": workload.what,
        "steps": steps,
        "pairs": pairs,
        "step": 1e3 * step,
        "ratio": statistics.median(wall),
        "ratios": [round(ratio, 4) for ratio in wall],
        "late_ratio": statistics.median(late),
        "cpu_ratio": statistics.median(cpu),
        "seconds": statistics.median(run.wall for run in without),
        "snapshots_per_50": statistics.median(50 * (len(run.taken) - 1) / steps for run in with_),
        "probes_per_400": statistics.median(400 * len(run.probes) / steps for run in with_),
        "dropped": max(run.dropped for run in with_),
        "overhead": statistics.median(run.overhead for run in with_),
        "stall_first": 1e3 * statistics.median(run.stalls[0] for run in with_),
        "stall_p50": 1e3 * quantile(stalls, 0.5),
        "stall_p99": 1e3 * quantile(stalls, 0.99),
        "stall_snapshot_p99": 1e3 * quantile([s for run in with_ for s in run.at_snapshots()], 0.99),
        "stall_max": 1e3 * max(stalls),
    }


def beside(tool: type[Tool], workload: Workload, steps: int, pairs: int) -> Row:
    """One tool in the plain loop; a look is what it adds to a run, over its looks, in units of one step."""
    seconds: dict[type[Tool], list[tuple[float, float]]] = {Tool: [], tool: []}
    for number in range(pairs):
        for kind in (Tool, tool) if number % 2 == 0 else (tool, Tool):
            seconds[kind].append(_loop(kind, workload, steps))
    runs = list(zip(seconds[tool], seconds[Tool], strict=True))
    added = statistics.median(a[0] - b[0] for a, b in runs)
    step = statistics.median(b[0] for _, b in runs) / steps
    return {
        "tool": tool.name,
        "curvature": tool.curvature,
        "steps": steps,
        "pairs": pairs,
        "ratio": statistics.median(a[0] / b[0] for a, b in runs),
        "cpu_ratio": statistics.median(a[1] / b[1] for a, b in runs),
        "look": added / (steps / EVERY) / step,
    }


def _loop(kind: type[Tool], workload: Workload, steps: int) -> tuple[float, float]:
    """Wall and CPU seconds of one run, its end included."""
    model = workload.model()
    # a tool may leave a process behind that still writes when the folder goes
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tool = kind(model, workload.optimizer(model), Path(folder))
        wall, cpu = time.perf_counter(), time.process_time()
        for number, batch in enumerate(workload.batches(steps), 1):
            tool.step(number, batch)
        tool.close()
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        tool.discard()
    return seconds
