"""What was asked beside what came out, in markdown."""

from __future__ import annotations

import math
import statistics
from typing import Any

from examples.benchmarks.control.families import HELD_OUT


def tables(results: list[dict[str, Any]]) -> str:
    """Markdown: the seeds the control was worked on with, then those held out."""
    parts = []
    for title, held_out in (("Seeds 0 to 9", False), ("Seeds 10 to 14, held out", True)):
        if chosen := [r for r in results if (r["seed"] >= HELD_OUT) == held_out]:
            parts.append(f"## {title}\n\n{_table(chosen)}")
    return "\n".join(parts)


def _table(results: list[dict[str, Any]]) -> str:
    """Markdown: what was asked beside what came out, then every family, then every miss."""
    needed = [r for r in results if r["diverges_at"] is not None]
    spared = [r for r in results if r["diverges_at"] is None]
    good = [r for r in needed if r["controlled"] <= 1.05 * r["tuned"]]
    costs = [r["controlled"] / r["alone"] - 1.0 for r in spared]
    cheap = [cost for cost in costs if cost <= 0.02]
    stops = [r for r in needed if r["stopped_at"] is not None]
    saved = [r["steps"] - r["stopped_at"] for r in stops]
    true = [r for r in stops if r["steps_made"] == r["stopped_at"]]
    vain = [r for r in stops if r["best_after_stop"] >= r["best_before_stop"]]
    needless = [r for r in spared if r["stopped_at"] is not None]
    lines = [
        f"{len(results)} runs; {len(needed)} diverge without control, {len(spared)} do not.",
        "",
        "| | asked | found |",
        "|---|---|---|",
        f"| of the runs that diverge alone: within 5 % of a rate tuned by hand | 80 % | {_share(good, needed)} |",
        f"| of the runs that do not: final loss at most 2 % higher with control | all | {_share(cheap, spared)}, "
        f"median cost {100 * _median(costs):.2f} %, worst {100 * max(costs, default=math.nan):.1f} % |",
        f"| early stopping: diverging runs stopped | - | {_share(stops, needed)} |",
        f"| ... steps saved of what the run was to make, median | - | {_median(saved):.0f} |",
        f"| ... made exactly the steps it claims | all | {_share(true, stops)} |",
        f"| ... the run alone reached no lower loss after that step | - | {_share(vain, stops)} |",
        f"| ... stopped although the run alone does not diverge | none | {_share(needless, spared)} |",
        "",
        "| family | runs | diverge alone | within 5 % of tuned | controlled / tuned, median "
        "| controlled / alone, median | lowest factor, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in dict.fromkeys(r["family"] for r in results):
        own = [r for r in results if r["family"] == family]
        gone = [r for r in own if r["diverges_at"] is not None]
        rest = [r for r in own if r["diverges_at"] is None]
        fine = [r for r in gone if r["controlled"] <= 1.05 * r["tuned"]]
        against = statistics.median(r["controlled"] / r["tuned"] for r in own)
        cost = f"{statistics.median(r['controlled'] / r['alone'] for r in rest):.3f}" if rest else "-"
        lines.append(
            f"| {family} | {len(own)} | {len(gone)} | {_share(fine, gone)} | {against:.3f} | {cost} "
            f"| {statistics.median(r['lowest_factor'] for r in own):.3f} |"
        )
    lines += ["", "### Misses", ""]
    for r in results:
        bad = r in needed and r not in good
        dear = r in spared and r["controlled"] > 1.02 * r["alone"]
        if bad or dear:
            lines.append(
                f"- {r['family']} {r['seed']}: controlled {r['controlled']:.4g}, tuned {r['tuned']:.4g}, alone "
                f"{r['alone']:.4g} (diverges at {r['diverges_at']}); factor down to {r['lowest_factor']:.3f}, "
                f"{r['steps_lowered']} of {r['steps']} steps lowered"
            )
    return "\n".join(lines) + "\n"


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan


def _share(part: list[Any], whole: list[Any]) -> str:
    return f"{len(part)} of {len(whole)}" + (f" ({100 * len(part) / len(whole):.0f} %)" if whole else "")
