"""The benchmark's labels and scores on stories whose answer is known, and one of its runs, whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from examples.benchmarks.labelled.__main__ import run
from examples.benchmarks.labelled.labels import Event, Outcome, events
from examples.benchmarks.labelled.score import match


def kinds(loss: list[float]) -> list[Event]:
    return events(Outcome(loss=loss))


def test_smooth_falls_are_no_events() -> None:
    noise = np.random.default_rng(0).standard_normal(600)
    for decay in (0.01, 0.002):
        assert kinds([0.3 + math.exp(-decay * s) * (1 + 0.005 * n) for s, n in enumerate(noise)]) == []


def test_a_step_down_is_a_stage_where_it_is_steepest() -> None:
    (event,) = kinds([1.0 + 1 / (1 + math.exp((s - 300) / 8)) for s in range(600)])
    assert event.kind == "stage"
    assert abs(event.step - 300) <= 6


def test_divergence_and_spikes() -> None:
    assert kinds([1.0] * 100 + [6.0]) == [Event("divergence", 100)]
    assert kinds([1.0] * 100 + [math.nan]) == [Event("divergence", 100)]
    assert kinds([1.0] * 100 + [3.5] * 5 + [1.0] * 100) == [Event("spike", 100)]


def test_collapse_must_last() -> None:
    rows = [(s, [1.0, 0.2 if s >= 50 else 1.0]) for s in range(0, 100, 10)]
    assert events(Outcome(entropy=rows)) == [Event("attention collapse", 50)]
    assert events(Outcome(entropy=[*rows, (100, [1.0, 1.0])])) == []


def test_grokking_needs_a_delay() -> None:
    train = [(s, float(s >= 100)) for s in range(0, 500, 10)]
    late, soon = ([(s, float(s >= start)) for s in range(0, 500, 10)] for start in (300, 150))
    assert events(Outcome(train_accuracy=train, test_accuracy=late)) == [Event("grokking", 300)]
    assert events(Outcome(train_accuracy=train, test_accuracy=soon)) == []


def test_scores() -> None:
    leads, shares, told, false = match([10, 150, 160, 700], [200, 310, 1000])
    assert leads == [190.0, 160.0]
    assert shares == pytest.approx([190 / 200, 1.0])
    assert (told, false) == (2, 1)
    assert match([215], [200])[0] == [-15.0]
    assert match([225], [200])[2:] == (0, 1)


def test_a_run_gives_the_same_alerts_in_random_gauges_and_raw_norms_do_not() -> None:
    result = run("high_rate", 4)
    assert [kind for kind, _ in result["events"]] == ["divergence"]
    assert result["plain_alerts"] == result["gauged_alerts"]
    assert 0 < result["plain_alerts"][0][0] < result["events"][0][1]
