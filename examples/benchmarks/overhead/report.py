"""The tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    lines = [list(titles)]
    lines += [["---"] * len(lines[0]), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(results: dict[str, Any]) -> str:
    """All that was measured, and where."""
    machine = results["machine"]
    parts = [
        "# Overhead",
        f"{machine['cores']} cores, {machine['threads']} threads of training, torch {machine['torch']}, "
        f"{machine['load']:.1f} processes waiting at the start. Ratios are medians of pairs with / without, "
        "whole runs.",
    ]
    if rows := [results[name] for name in ("W1", "W2", "W3") if name in results]:
        parts.append("## `ShockWatch()` at its defaults, under the Lightning trainer")
        parts.append(table(_RUN, ([show(row) for show in _RUN.values()] for row in rows)))
        parts.append("The first step of a run holds the trace: it is the column of its own.")
    if tools := results.get("tools"):
        parts.append("## Beside other tools: W1 in a plain loop, a look every 50 steps")
        parts.append(table(_TOOL, ([show(row) for show in _TOOL.values()] for row in tools)))
    if probe := results.get("probe"):
        parts.append(
            f"shockwatch looks at the curvature as its budget allows, on the background thread: one probe takes as "
            f"long as {probe['steps']:.0f} steps, one snapshot {probe['snapshot']:.1f}."
        )
    return "\n\n".join(parts) + "\n"


_RUN = {
    "workload": lambda row: f"{row['workload']}: {row['what']}",
    "step, ms": lambda row: f"{row['step']:.1f}",
    "run, s": lambda row: f"{row['seconds']:.0f}",
    "ratio": lambda row: f"{row['ratio']:.3f} ({min(row['ratios']):.3f} to {max(row['ratios']):.3f})",
    "ratio of its second half": lambda row: f"{row['late_ratio']:.3f}",
    "ratio of CPU time": lambda row: f"{row['cpu_ratio']:.3f}",
    "snapshots per 50 steps": lambda row: f"{row['snapshots_per_50']:.2f}",
    "probes per 400 steps": lambda row: f"{row['probes_per_400']:.2f}",
    "dropped": lambda row: row["dropped"],
    "`shockwatch/overhead`": lambda row: f"{row['overhead']:.3f}",
    "stall p99, share of a step": lambda row: f"{100 * row['stall_snapshot_p99'] / row['step']:.1f} %",
    "stall p50 / p99 / max, ms": lambda row: (
        f"{row['stall_p50']:.2f} / {row['stall_p99']:.2f} / {row['stall_max']:.2f}"
    ),
    "first step, ms": lambda row: f"{row['stall_first']:.0f}",
}

_TOOL = {
    "tool": lambda row: row["tool"],
    "curvature": lambda row: "yes" if row["curvature"] else "no",
    "ratio": lambda row: f"{row['ratio']:.3f}",
    "ratio of CPU time": lambda row: f"{row['cpu_ratio']:.3f}",
    "a look, in steps": lambda row: f"{row['look']:.1f}",
}
