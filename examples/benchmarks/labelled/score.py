"""From alerts and events to the table; the rule of matching is stated in the package's docstring."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

AHEAD, LATE = 200, 20

Result = dict[str, Any]
"""One run: family, seed, steps, events [[kind, step]], alerts {monitor: [steps]} and {..: in gauges}."""


def match(alerts: Sequence[int], events: Sequence[int]) -> tuple[list[float], list[float], int, int]:
    """Leads in steps, leads as shares of the phase, events told, and false alerts, of one run."""
    leads, shares, taken = [], [], set()
    for number, event in enumerate(events):
        window = _window(alerts, event)
        first = next((i for i in window if i not in taken), None)
        if first is not None:
            taken.add(first)
            leads.append(float(event - alerts[first]))
            phase = event - (events[number - 1] if number else 0)
            shares.append(min(1.0, leads[-1] / max(phase, 1)))
    near = {i for event in events for i in _window(alerts, event)}
    return leads, shares, len(leads), len(alerts) - len(near)


def _window(alerts: Sequence[int], event: int) -> list[int]:
    """Indices of the alerts that an event makes true."""
    return [i for i, step in enumerate(alerts) if event - AHEAD <= step <= event + LATE]


def summary(results: Sequence[Result], monitor: str, gauge: bool = False) -> dict[str, float]:
    """Recall, precision, median lead and false alarms of one monitor over some runs."""
    leads, shares = [], []
    told = false = total = steps = 0
    for result in results:
        alerts = result["gauged" if gauge else "plain"][monitor]
        events = [step for _, step in result["events"]]
        run_leads, run_shares, hits, wrong = match(alerts, events)
        leads += run_leads
        shares += run_shares
        told, false, total, steps = told + hits, false + wrong, total + len(events), steps + result["steps"]
    return {
        "events": total,
        "recall": told / total if total else math.nan,
        "precision": told / (told + false) if told + false else math.nan,
        "lead": statistics.median(leads) if leads else math.nan,
        "lead_share": statistics.median(shares) if shares else math.nan,
        "ahead": sum(lead > 0 for lead in leads) / total if total else math.nan,
        "false_per_10000": 1e4 * false / steps,
    }


def moved(results: Sequence[Result], monitor: str) -> float:
    """Share of alerts that are not the same, step for step, once the run is seen in random gauges."""
    different = total = 0
    for result in results:
        here, there = set(result["plain"][monitor]), set(result["gauged"][monitor])
        different += len(here ^ there)
        total += len(here | there)
    return different / total if total else 0.0


def _number(value: float, form: str = ".2f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def _row(name: str, s: dict[str, float], extra: str = "") -> str:
    return (
        f"| {name} | {s['events']} | {_number(s['recall'])} | {_number(s['ahead'])} | {_number(s['precision'])} "
        f"| {_number(s['lead'], '.0f')} | {_number(100 * s['lead_share'], '.0f')} % "
        f"| {s['false_per_10000']:.1f} |{extra}"
    )


_HEAD = (
    "events | recall | told ahead | precision | median lead (steps) | lead / phase | false per 10,000 steps |"
)


def tables(results: list[Result], groups: dict[str, tuple[str, ...]]) -> str:
    """Markdown: monitors over all runs of the test half, then shockwatch by family, then the events missed."""
    test = [r for r in results if r["seed"] % 2]
    monitors = list(results[0]["plain"])
    lines = [
        f"{len(results)} runs ({sum(not r['events'] for r in results)} without an event), each also in random "
        f"gauges; the test half: {len(test)} runs, {sum(len(r['events']) for r in test)} events.",
        "",
    ]
    for title, families in groups.items():
        chosen = [r for r in test if r["family"] in families]
        if not chosen:
            continue
        lines += [f"### {title} (test half)", "", f"| monitor | {_HEAD} moved by gauges |", "|---" * 9 + "|"]
        lines += [_row(m, summary(chosen, m), f" {100 * moved(chosen, m):.0f} % |") for m in monitors]
        lines.append("")
    lines += ["### shockwatch by family (both halves: test, then development)", ""]
    lines += [f"| family | {_HEAD}", "|---" * 8 + "|"]
    for family in dict.fromkeys(r["family"] for r in results):
        for half, word in ((1, "test"), (0, "dev")):
            chosen = [r for r in results if r["family"] == family and r["seed"] % 2 == half]
            if chosen:
                lines.append(_row(f"{family}, {word}", summary(chosen, monitors[0])))
    lines += ["", "### Missed by shockwatch, and its false alerts (all runs)", ""]
    for r in results:
        alerts, events = r["plain"][monitors[0]], r["events"]
        taken: set[int] = set()
        missed = []
        for kind, step in events:
            first = next((i for i in _window(alerts, step) if i not in taken), None)
            if first is None:
                missed.append(f"{kind} at {step}")
            else:
                taken.add(first)
        *_, wrong = match(alerts, [step for _, step in events])
        if missed or wrong:
            lines.append(
                f"- {r['family']} {r['seed']}: missed {', '.join(missed) or 'nothing'}; {wrong} false of {alerts}"
            )
    return "\n".join(lines) + "\n"
