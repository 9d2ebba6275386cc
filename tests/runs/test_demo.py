"""The demo, whole: forecasts come true, alerts come before, and silence follows the last transition."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shockwatch import cli, demo, session
from shockwatch.demo import SINGULAR_VALUES, DemoResult

AHEAD = 100


@dataclass(frozen=True)
class Shown:
    result: DemoResult
    printed: str
    root: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """One run of ``shockwatch demo`` for all tests here: what it printed, and the result behind it.

    Room for every snapshot, so that what is analysed does not depend on how busy the machine is.
    """
    results: list[DemoResult] = []
    out = io.StringIO()
    root = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        run = demo.run
        patch.setattr(session, "Capture", functools.partial(session.Capture, slots=demo.STEPS // 100 + 2))
        patch.setattr(demo, "run", lambda root: results.append(run(root)) or results[-1])
        assert cli.main(["demo", "--root", str(root)]) == 0
    return Shown(results[0], out.getvalue(), root)


@pytest.fixture(scope="module")
def result(shown: Shown) -> DemoResult:
    return shown.result


def test_every_transition_comes_in_its_order(result: DemoResult) -> None:
    assert tuple(result.transitions) == SINGULAR_VALUES
    assert result.dropped == 0
    steps = list(result.transitions.values())
    assert steps == sorted(steps)
    assert steps[-1] < demo.STEPS - 1000  # time enough to cry wolf afterwards


def test_forecasts_are_within_ten_percent_of_the_remaining_steps(result: DemoResult) -> None:
    for value, actual in result.transitions.items():
        assert len(result.ahead(actual, AHEAD)) >= 2, value
    assert median(result.errors) <= 0.1
    # and not one transition pays for another
    for actual in result.transitions.values():
        errors = [abs(made + steps - actual) / (actual - made) for made, steps in result.ahead(actual, AHEAD)]
        assert median(errors) <= 0.1, (actual, errors)


def test_silence_after_the_last_transition(result: DemoResult) -> None:
    last = max(result.transitions.values())
    assert [made for made, _ in result.forecasts if made > last] == []
    assert [alert for alert in result.alerts if alert.step > last] == []


def test_transitions_are_alerted_before_they_come(result: DemoResult) -> None:
    steps = [0, *result.transitions.values()]
    alerted = [
        any(before < a.step < actual for a in result.alerts) for before, actual in itertools.pairwise(steps)
    ]
    assert sum(alerted) >= 3
    assert {alert.name for alert in result.alerts} == {"transition ahead"}
    for alert in result.alerts:
        actual = min(step for step in result.transitions.values() if step > alert.step)
        assert alert.forecast == pytest.approx(actual - alert.step, rel=0.3)


def test_the_command_prints_the_table_and_where_to_look(shown: Shown) -> None:
    lines = shown.printed.splitlines()
    head = next(i for i, line in enumerate(lines) if "forecast step" in line)
    assert "actual step" in lines[head]
    for value, actual in shown.result.transitions.items():
        rows = [line.split() for line in lines[head + 1 :] if line.strip().startswith(f"{value:.1f} ")]
        assert rows, value
        assert all(row[3] == str(actual) and abs(int(row[2]) - actual) <= actual for row in rows)
    command = re.search(r"tensorboard --logdir (\S+)", shown.printed)
    assert command
    assert list(Path(command[1]).glob("events.out.tfevents.*"))


def test_every_transition_has_its_pictures(shown: Shown) -> None:
    (file,) = shown.root.rglob("events.*")
    events = EventAccumulator(str(file), size_guidance={"images": 0}).Reload()
    starts = [0, *shown.result.transitions.values()]
    steps = [image.step for image in events.Images("shockwatch/slice")]
    assert [image.step for image in events.Images("shockwatch/heads")] == steps
    # one between each transition and the next, none after the last
    assert [sum(a <= step < b for step in steps) for a, b in itertools.pairwise(starts)] == [1, 1, 1, 1]
    assert len(steps) == 4
    assert events.Images("shockwatch/forecast")
    assert events.Images("shockwatch/slice")[0].encoded_image_string.startswith(b"\x89PNG")
