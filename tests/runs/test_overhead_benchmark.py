"""The overhead benchmark's own arithmetic, on runs of a few steps."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from examples.benchmarks.overhead import __main__ as benchmark
from examples.benchmarks.overhead import pairs
from examples.benchmarks.overhead.report import markdown
from examples.benchmarks.overhead.tools import GradientNorms, Tool
from examples.benchmarks.overhead.trainer import Run, quantile
from examples.benchmarks.overhead.workloads import WORKLOADS, Workload


def test_medians_of_pairs_without_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[bool] = []

    def fit(workload: Workload, steps: int, watched: bool, clock: object) -> Run:
        order.append(watched)
        pair = (len(order) + 1) // 2
        if not watched:
            return Run(wall=10.0, cpu=5.0, step=0.1, late=5.0)
        stalls = [9.0, 0.001, 0.002 * pair, 0.001]
        wall, late = 10.0 + pair, 5.0 + 0.1 * pair
        return Run(wall, 5.0, 0.2, late, stalls, taken=[1, 3, 200], probes=[1], dropped=pair, overhead=0.01)

    monkeypatch.setattr(pairs, "fit", fit)
    row = pairs.watched(WORKLOADS[0], 100, 3)
    assert order == [False, True, True, False, False, True]
    assert row["ratio"] == pytest.approx(1.2)
    assert row["late_ratio"] == pytest.approx(1.04)
    assert row["cpu_ratio"] == 1.0
    assert row["seconds"] == 10.0
    assert row["step"] == pytest.approx(100.0)
    assert row["snapshots_per_50"] == 1.0
    assert row["probes_per_400"] == 4.0
    assert row["dropped"] == 3
    assert (row["stall_p50"], row["stall_max"]) == (pytest.approx(1.0), pytest.approx(6.0))
    # the snapshot of step 3; that of the end lies beyond the last batch
    assert row["stall_snapshot_p99"] == pytest.approx(6.0)


def test_a_look_is_what_it_adds_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_loop", lambda kind, *_: (10.0, 8.0) if kind is Tool else (12.0, 8.0))
    row = pairs.beside(GradientNorms, WORKLOADS[0], 200, 3)
    # four looks, two seconds, a step of 50 ms
    assert row["look"] == pytest.approx(10.0)
    assert (row["ratio"], row["cpu_ratio"]) == (1.2, 1.0)


def test_a_quantile_is_a_value_that_was_seen() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert quantile([4.0, 1.0], 0.0) == 1.0


def test_a_real_run_of_a_few_steps_and_a_tool_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Missing(Tool):
        name = "nobody's tool"
        needs = ("a_module_that_nobody_wrote",)

    monkeypatch.setattr(benchmark, "WORKLOADS", WORKLOADS[:1])
    monkeypatch.setattr(benchmark, "TOOLS", (GradientNorms, Missing))
    monkeypatch.setattr(benchmark, "measure", lambda _: pytest.fail("not asked for"))
    for name in ("lightning.pytorch", "shockwatch"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.ERROR)
    out = tmp_path / "results" / "overhead.json"
    results = benchmark.run(["W1"], 1, True, out)
    row = results["W1"]
    assert row["steps"] == 100
    assert row["snapshots_per_50"] >= 0.5
    assert row["ratio"] > 0.0
    monkeypatch.setattr(benchmark, "measure", lambda _: _Cost())
    results = benchmark.run(["tools"], 1, True, out)
    assert [tool["tool"] for tool in results["tools"]] == ["gradient norms"]
    assert "nobody's tool is left out: ModuleNotFoundError" in capsys.readouterr().out
    # the second call kept what the first had measured
    assert json.loads(out.read_text())["W1"] == row
    text = out.with_suffix(".md").read_text()
    assert text == markdown(results)
    assert "| W1: MLP 64-512-512-10" in text
    assert "| gradient norms | no |" in text


class _Cost:
    probe, step, snapshot = 20.0, 2.0, 1.0
