"""Sinks: each gets every alert, none can hurt another or the run."""

from __future__ import annotations

import json
import logging
import math
import warnings
from pathlib import Path

import pytest

from shockwatch.alerts import Alert, JsonLines, Sinks, to_logging
from shockwatch.errors import ShockwatchWarning


def alert(step: int = 1, value: float = 2.0) -> Alert:
    return Alert("near", "critical", step, "shock/proximity", value, 1.0, None, "a shock is near")


def test_a_sink_that_fails_is_warned_about_once_and_harms_no_other() -> None:
    good: list[Alert] = []

    def bad(alert: Alert) -> None:
        raise OSError("disk full")

    sinks = Sinks()
    with pytest.warns(
        ShockwatchWarning, match="the alert sink 'bad' failed \\(OSError: disk full\\)"
    ) as caught:
        sinks.send([alert(1), alert(2)], {"bad": bad, "good": good.append})
    assert len(caught) == 1
    assert [a.step for a in good] == [1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sinks.send([alert(3)], {"bad": bad, "good": good.append})
    assert len(good) == 3


def test_a_warning_made_an_error_does_not_reach_the_run() -> None:
    def bad(alert: Alert) -> None:
        raise OSError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Sinks().send([alert()], {"bad": bad})


def test_a_line_of_json_per_alert(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is made before the first alert"
    for one in (alert(1), alert(2, math.inf)):
        sink(one)
    lines = (tmp_path / "shockwatch" / "alerts.jsonl").read_text().splitlines()
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert first == {
        "name": "near",
        "severity": "critical",
        "step": 1,
        "tag": "shock/proximity",
        "value": 2.0,
        "threshold": 1.0,
        "forecast": None,
        "message": "a shock is near",
        "error": None,
    }
    assert second["value"] == "inf"


def test_a_link_out_of_the_run_folder_is_not_followed(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.mkdir()
    (run / "shockwatch").symlink_to(outside)
    with pytest.raises(ValueError, match="outside the run folder"):
        JsonLines(run)(alert())
    assert not list(outside.iterdir())


def test_a_run_folder_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "real")
    JsonLines(tmp_path / "run")(alert())
    assert (tmp_path / "real" / "shockwatch" / "alerts.jsonl").exists()


@pytest.mark.parametrize(("severity", "level"), [("info", 20), ("warning", 30), ("critical", 50)])
def test_severity_is_the_level_of_the_log(
    severity: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "shockwatch"):
        to_logging(Alert("a", severity, 7, "raw/norm", 1.0, 1.0, None, "words"))  # type: ignore[arg-type]
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(level, "step 7: words")]
