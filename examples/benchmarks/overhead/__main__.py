"""Measures, saves after every part, writes the tables; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from examples.benchmarks.overhead.pairs import beside, watched
from examples.benchmarks.overhead.report import markdown
from examples.benchmarks.overhead.tools import TOOLS
from examples.benchmarks.overhead.workloads import WORKLOADS
from examples.benchmarks.snapshot_cost import CASES, measure

FOLDER = Path(__file__).parents[1] / "results"


def run(parts: list[str], pairs: int, quick: bool, path: Path) -> dict[str, Any]:
    """Measure ``parts``, keep what ``path`` holds of the others, and write it and the tables beside it."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }
    for workload in WORKLOADS:
        if workload.name in parts:
            steps = max(workload.steps // 150, 10) if quick else workload.steps
            results[workload.name] = watched(workload, steps, pairs)
            _save(results, path)
    if "tools" in parts:
        results["tools"] = []
        for tool in TOOLS:
            if (missing := tool.missing()) is not None:
                print(missing, flush=True)
                continue
            steps = 100 if quick else tool.steps
            results["tools"].append(beside(tool, WORKLOADS[0], steps, pairs))
            _save(results, path)
        cost = measure(CASES[0])
        results["probe"] = {"steps": cost.probe / cost.step, "snapshot": cost.snapshot / cost.step}
        _save(results, path)
    return results


def _save(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(results))


def main() -> None:
    """Read the options, measure, print the tables."""
    names = [*(workload.name for workload in WORKLOADS), "tools"]
    parser = argparse.ArgumentParser(
        description="What a watched run costs; see the docstring of the package."
    )
    parser.add_argument("--only", default=",".join(names), help="parts, comma separated: " + ", ".join(names))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="check the script: one pair of short runs")
    parser.add_argument("--out", type=Path, default=FOLDER / "overhead.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning", "shockwatch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    start = time.perf_counter()
    pairs = 1 if options.quick else options.pairs
    results = run(options.only.split(","), pairs, options.quick, options.out)
    print(markdown(results))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
