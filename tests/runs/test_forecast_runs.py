"""The forecast benchmark on stories whose answer is known, and one of its runs, whole."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from examples.benchmarks.forecast.judge import Verdict, judge
from examples.benchmarks.forecast.record import Record, record
from examples.benchmarks.forecast.settings import settings
from examples.benchmarks.forecast.table import table


def test_a_stage_is_passed_where_its_progress_passes_one() -> None:
    run = Record(
        "", 0, 1.0, 4, 1, progress=[[0.0, 1.5, 0.0], [1.1, 1.6, 0.2], [1.2, 1.7, 0.9], [1.3, 1.8, 1.0]]
    )
    assert run.events == [1]  # the second was passed from the start, the third not yet
    assert run.over == math.inf


def test_a_peak_of_the_gradient_with_a_fall_of_the_loss_is_an_event() -> None:
    bump = [1.0 / math.cosh((s - 300) / 20) for s in range(600)]
    losses = [1.5 - math.tanh((s - 300) / 20) for s in range(600)]
    outcome = Record("", 0, 1.0, 600, 20, gradients=[0.05 + b for b in bump], losses=losses)
    assert outcome.events == [300]
    assert Record("", 0, 1.0, 600, 20, gradients=outcome.gradients, losses=[1.0] * 600).events == []
    assert Record("", 0, 1.0, 600, 20, gradients=[1.0 + 0.05 * b for b in bump], losses=losses).events == []


def test_one_run_whole() -> None:
    """Two layers from a start of 0.01: four stages; the last plateau, the longest, is forecast."""
    plain = [s for s in settings(1) if (s.family, s.start) == ("deep linear, depth 2", 0.01)]
    (setting,) = plain
    run = record(replace(setting, every=50))
    verdict = judge(run)
    assert len(verdict.events) == 4
    assert verdict.over == verdict.events[-1]
    left, forecast = verdict.halves[-1][:2]
    assert forecast == pytest.approx(left, rel=0.05)
    assert [math.isnan(row[2]) and row[1] < 0.5 for row in verdict.after].count(False) == 0
    saved = json.dumps(verdict.as_dict())
    again = Verdict.from_dict(json.loads(saved))
    assert again.events == verdict.events
    assert json.dumps(again.as_dict()) == saved
    assert table([verdict]).splitlines()[2].startswith("| deep linear, depth 2 | 1 | 4 |")


def test_an_error_of_ten_per_cent_reads_ten_per_cent() -> None:
    verdict = Verdict("some", 1, 1.0, [100], 100.0)
    verdict.halves = [[50.0, 55.0, math.nan, 100.0, 50.0]]
    verdict.ahead = [[50.0, 55.0, 4.0, 1.0], [40.0, 41.0, 2.0, 1.0]]
    verdict.after = [[10.0, 0.7, 300.0, 1.0, 1.0, 1.0], [20.0, 0.0, math.nan, math.nan, 1.0, 1.0]]
    cells = [cell.strip() for cell in table([verdict]).splitlines()[2].split("|")[1:-1]]
    assert cells == [
        "some", "1", "1", "10.0% (100% given)", "+6.2%",
        "none given, 100.0% (100% given), 0.0% (100% given)", "50%", "50.0%", "50.0%", "50%",
    ]  # fmt: skip


def test_no_forecast_in_steps_without_a_clock() -> None:
    setting = next(s for s in settings(1) if s.family == "deep linear, depth 2, Adam")
    verdict = judge(record(replace(setting, steps=100, optimizer=lambda p: torch.optim.RMSprop(p, 0.001))))
    assert verdict.ahead == []
    assert all(math.isnan(half[1]) for half in verdict.halves)


@pytest.mark.parametrize("family", ["deep linear, depth 2, Adam", "ReLU student, Adam"])
def test_adam_is_told_by_its_own_path(family) -> None:
    setting = next(s for s in settings(1) if s.family == family)
    verdict = judge(record(replace(setting, steps=240)))
    (event,) = verdict.events
    left, forecast = verdict.halves[0][:2]
    assert forecast == pytest.approx(left, rel=0.1)
    assert 0 < left < event
    # what baselines say of the learning rate, they do not say of Adam
    assert math.isnan(verdict.halves[0][2])
