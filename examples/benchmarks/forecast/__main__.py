"""Makes the runs, in as many processes as asked for, and writes the tables; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import pickle
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from examples.benchmarks.forecast.judge import Verdict, judge
from examples.benchmarks.forecast.record import record
from examples.benchmarks.forecast.settings import Setting, settings
from examples.benchmarks.forecast.table import table

FOLDER = Path(__file__).parents[1] / "results"


def run(job: tuple[int, int, str]) -> tuple[Verdict, float]:
    """Make, or find in folder ``job[2]``, and judge run number ``job[1]`` out of those of ``job[0]`` seeds."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    start = time.perf_counter()
    setting = list(settings(job[0]))[job[1]]
    path = Path(job[2]) / f"{setting.family}_{setting.start}_{setting.seed}.pkl"
    if job[2] and path.exists():
        return judge(pickle.loads(path.read_bytes())), time.perf_counter() - start
    recorded = record(setting)
    if job[2]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(recorded))
    return judge(recorded), time.perf_counter() - start


def tables(verdicts: list[Verdict]) -> str:
    """Both halves."""
    halves = ("Even seeds: looked at while the forecast was worked on", "Odd seeds: only judged")
    parts = []
    for half, title in enumerate(halves):
        chosen = [v for v in verdicts if v.seed % 2 == half]
        parts.append(f"### {title} ({len(chosen)} runs)\n\n{table(chosen)}")
    return "\n".join(reversed(parts))


def main() -> None:
    """Run, print each verdict, save, print the tables."""
    parser = argparse.ArgumentParser(description="Forecasts; see the docstring of the package.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--only", default="", help="part of the name of the families to run; the others are kept"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--records", default="", help="folder of runs: those there are judged, the others added"
    )
    options = parser.parse_args()
    path = FOLDER / "forecast.json"
    jobs = list(settings(options.seeds))
    chosen = [i for i, setting in enumerate(jobs) if options.only in setting.family]
    kept = {}
    if options.only and path.exists():
        kept = {_key(v): v for v in map(Verdict.from_dict, json.loads(path.read_text()))}
    with ProcessPoolExecutor(options.processes) as pool:
        for verdict, seconds in pool.map(run, [(options.seeds, i, options.records) for i in chosen]):
            kept[_key(verdict)] = verdict
            print(f"{verdict.family:35} {verdict.seed} {seconds:5.1f} s  events {verdict.events}", flush=True)
    verdicts = [kept[_key(setting)] for setting in jobs if _key(setting) in kept]
    FOLDER.mkdir(exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(v.as_dict()) for v in verdicts) + "\n]\n")
    (FOLDER / "forecast.md").write_text(tables(verdicts))
    print(tables(verdicts))


def _key(run: Verdict | Setting) -> tuple[str, float, int]:
    return run.family, run.start, run.seed


if __name__ == "__main__":
    main()
