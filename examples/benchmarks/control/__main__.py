"""Runs the benchmark and writes its table; see the package's docstring."""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from examples.benchmarks.control.families import FAMILIES, HELD_OUT, SEEDS, SMOOTH, SMOOTH_SEEDS
from examples.benchmarks.control.runs import run
from examples.benchmarks.control.tables import tables

FOLDER = Path(__file__).parents[1] / "results"


def main() -> None:
    """Run, save after every run, print the table."""
    parser = argparse.ArgumentParser(description="Control; see the docstring of the package.")
    parser.add_argument("--only", default="", help="families, comma separated; default: all")
    parser.add_argument("--seeds", default="", help="comma separated; default: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="keep what was found without shockwatch")
    options = parser.parse_args()
    path = FOLDER / "control.json"
    FOLDER.mkdir(exist_ok=True)
    kept = (
        json.loads(path.read_text())
        if path.exists() and (options.only or options.seeds or options.again)
        else []
    )
    results = {(r["family"], r["seed"]): r for r in kept}
    known = dict(results) if options.again else {}
    jobs = [
        (family, seed)
        for family in (options.only.split(",") if options.only else FAMILIES)
        for seed in (SMOOTH_SEEDS if family in SMOOTH else SEEDS)
        if not options.seeds or str(seed) in options.seeds.split(",")
    ]
    jobs.sort(key=lambda job: job[1] >= HELD_OUT)
    with ProcessPoolExecutor(options.processes) as pool:
        for result in pool.map(partial(run, known=known), jobs):
            results[result["family"], result["seed"]] = result
            print(json.dumps(result), flush=True)
            saved = [
                results[key] for key in sorted(results, key=lambda k: (list(FAMILIES).index(k[0]), k[1]))
            ]
            path.write_text("[\n" + ",\n".join(map(json.dumps, saved)) + "\n]\n")
            (FOLDER / "control.md").write_text(tables(saved))
    print((FOLDER / "control.md").read_text())


if __name__ == "__main__":
    main()
