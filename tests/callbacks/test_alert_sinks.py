"""Where the alerts of a trainer's run go."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from shockwatch.alerts import Alert, Rule
from shockwatch.callbacks import ShockWatch
from shockwatch.errors import ShockwatchWarning
from tests.callbacks.lightning_cases import Fit
from tests.engine.shockwatch_fakes import FakeAnalysis

NEAR = [Rule("near", "shock/proximity", 1.0, "A transition is near.", severity="warning")]


class FakeWandb(WandbLogger):
    """The logger without its service."""

    def __init__(self, works: bool = True) -> None:
        self.works = works
        self.said: list[dict[str, Any]] = []

    @property
    def experiment(self) -> Any:
        return self

    def alert(self, **said: Any) -> None:
        if not self.works:
            raise ConnectionError("offline")
        self.said.append(said)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...
    def save(self) -> None: ...
    def finalize(self, status: str) -> None: ...
    def log_graph(self, *args: Any) -> None: ...

    @property
    def save_dir(self) -> None:
        return None

    @property
    def name(self) -> None:
        return None

    @property
    def version(self) -> None:
        return None


def test_every_sink_gets_the_alert(
    fit: Fit, fake: FakeAnalysis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.proximity = 2.0
    heard: list[Alert] = []
    csv, wandb = CSVLogger(tmp_path / "logs"), FakeWandb()
    watch = ShockWatch(alerts=NEAR, on_alert=heard.append)
    with caplog.at_level(logging.WARNING, "shockwatch"):
        fit([watch], logger=[wandb, csv])
    assert heard == watch.alerts
    assert [alert.step for alert in heard] == [1]
    assert [r.getMessage() for r in caplog.records] == ["step 1: A transition is near."]
    assert wandb.said == [
        {"title": "shockwatch: near", "text": "step 1: A transition is near.", "level": "WARN"}
    ]
    (line,) = (Path(csv.log_dir) / "shockwatch" / "alerts.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "near"


def test_without_a_logger_the_root_is_the_run_folder(fit: Fit, fake: FakeAnalysis, tmp_path: Path) -> None:
    fake.proximity = 2.0
    fit([ShockWatch(alerts=NEAR)])
    assert (tmp_path / "shockwatch" / "alerts.jsonl").exists()


def test_without_an_alert_nothing_is_written(fit: Fit, fake: FakeAnalysis, tmp_path: Path) -> None:
    fit([ShockWatch(alerts=NEAR)])
    assert not list(tmp_path.rglob("*"))


def test_failing_sinks_change_no_bit_of_the_run(fit: Fit, fake: FakeAnalysis, tmp_path: Path) -> None:
    fake.proximity = 2.0
    (tmp_path / "shockwatch").write_text("a file where the folder should be")

    def bad(alert: Alert) -> None:
        raise RuntimeError("mine")

    _, plain = fit([])
    watch = ShockWatch(alerts=NEAR, on_alert=bad)
    with pytest.warns(ShockwatchWarning, match="alert sink") as caught:
        _, watched = fit([watch], logger=FakeWandb(works=False))
    said = [str(warning.message) for warning in caught if "alert sink" in str(warning.message)]
    assert {message.split("'")[1] for message in said} == {"JSON lines", "WandbLogger 0", "on_alert"}
    assert len(said) == 3
    assert [alert.name for alert in watch.alerts] == ["near"]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_a_sink_must_be_callable() -> None:
    with pytest.raises(ValueError, match="on_alert='me': must be callable"):
        ShockWatch(on_alert="me")  # type: ignore[arg-type]
