"""Runs the benchmark, in as many processes as asked for, and writes the table; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from examples.benchmarks.labelled.families import FAMILIES, make
from examples.benchmarks.labelled.monitors import BASELINES, gauged, plain
from examples.benchmarks.labelled.record import train
from examples.benchmarks.labelled.score import Result, tables
from examples.benchmarks.labelled.watch import Seen, judge, observe

FOLDER = Path(__file__).parents[1] / "results"
SEEN = Path(__file__).parents[1] / "recorded"

GROUPS = {
    "Divergence, collapse and staged learning": (
        "deep_linear", "relu_stages", "token_stages", "high_rate", "bad_schedule", "attention_collapse", "dead_units",
    ),
    "Broken batches": ("corrupted",),
    "Grokking and induction heads (Adam)": ("grokking", "induction"),
    "Smooth runs": ("logistic", "smooth_mlp", "full_batch"),
}  # fmt: skip


def run(family: str, seed: int, views: tuple[str, ...] = ("plain", "gauged")) -> Result:
    """Train one run, show it to every monitor in every view; the values shockwatch saw are kept in a file."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("shockwatch").setLevel(logging.ERROR)
    start = time.perf_counter()
    recording = train(make(family, seed))
    result: Result = {
        "family": family,
        "seed": seed,
        "steps": recording.steps,
        "events": [[event.kind, event.step] for event in recording.events],
    }
    recorded = {}
    for name in views:
        view = plain(recording) if name == "plain" else gauged(recording, seed + 1)
        recorded[name] = observe(view)
        result[name] = {"shockwatch": []} | {monitor: watch(view) for monitor, watch in BASELINES.items()}
    SEEN.mkdir(exist_ok=True)
    _kept(family, seed).write_text(json.dumps(recorded))
    result["seconds"] = round(time.perf_counter() - start, 1)
    return judged(result, recorded)


def judged(result: Result, recorded: dict[str, list[Seen]]) -> Result:
    """``result`` with the alerts that today's rules raise on the recorded values."""
    for name, seen in recorded.items():
        alerts = judge(seen)
        result[name]["shockwatch"] = [step for step, _ in alerts]
        result[f"{name}_alerts"] = [list(alert) for alert in alerts]
    return result


def _kept(family: str, seed: int) -> Path:
    return SEEN / f"{family}-{seed}.json"


def main() -> None:
    """Run, save after every run, print the table."""
    parser = argparse.ArgumentParser(description="Labelled runs; see the docstring of the package.")
    parser.add_argument("--only", default="", help="families, comma separated; default: all")
    parser.add_argument("--count", type=int, default=None, help="seeds per family at most")
    parser.add_argument("--half", choices=("dev", "test"), default=None, help="even or odd seeds only")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="forget the results on disk")
    parser.add_argument(
        "--judge", action="store_true", help="train nothing: today's rules on the values kept"
    )
    options = parser.parse_args()
    path = FOLDER / "labelled.json"
    FOLDER.mkdir(exist_ok=True)
    kept: list[Result] = json.loads(path.read_text()) if path.exists() and not options.fresh else []
    chosen = options.only.split(",") if options.only else list(FAMILIES)
    jobs = [
        (family, seed)
        for family in chosen
        for seed in range(min(FAMILIES[family][1], options.count or 99))
        if options.half is None or (options.half == "test") == bool(seed % 2)
    ]
    results = {(r["family"], r["seed"]): r for r in kept}
    if options.judge:
        for job in set(jobs) & set(results):
            results[job] = judged(results[job], json.loads(_kept(*job).read_text()))
        _save(results)
    else:
        results = {job: result for job, result in results.items() if job not in set(jobs)}
        with ProcessPoolExecutor(options.processes) as pool:
            for result in pool.map(run, *zip(*jobs, strict=True)):
                results[result["family"], result["seed"]] = result
                same = result["plain_alerts"] == result["gauged_alerts"]
                print(
                    f"{result['family']:19} {result['seed']} {result['seconds']:6.1f} s  events {result['events']}  "
                    f"alerts {result['plain_alerts']}{'' if same else '  OTHERS IN GAUGES'}",
                    flush=True,
                )
                _save(results)
    print((FOLDER / "labelled.md").read_text())


def _save(results: dict[tuple[str, int], Result]) -> None:
    order = [(family, seed) for family in FAMILIES for seed in range(FAMILIES[family][1])]
    saved = [results[key] for key in order if key in results]
    (FOLDER / "labelled.json").write_text("[\n" + ",\n".join(map(json.dumps, saved)) + "\n]\n")
    (FOLDER / "labelled.md").write_text(tables(saved, GROUPS))


if __name__ == "__main__":
    main()
