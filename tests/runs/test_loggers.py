"""Every logger gets every scalar, at the step of its snapshot, and the alerts; alone and side by side.

``wandb`` and ``mlflow-skinny`` are no dependencies: where they are missing, pytest says which tests it left out.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shockwatch import ShockWatch
from shockwatch.alerts import Rule
from tests.runs.modules import build, data, fit

ALWAYS = [Rule("there is a norm", "quotient/norm", 0.0, "It is above zero.", severity="warning")]


@pytest.fixture
def run():
    """Train with loggers: what was told to listeners as tag -> step -> value, the alerts, the warnings we add."""

    def train(*make):
        said = []
        for watch in (None, ShockWatch(every_n_steps=4, probe=1, alerts=ALWAYS)):
            loggers = [one() for one in make]
            told = defaultdict(dict)

            def listen(update, told=told):
                for tag, value in update.values.items():
                    told[tag][update.axis] = value

            if watch is not None:
                watch.subscribe(listen)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                # torch's own, whenever it copies a graph; Lightning draws the same one
                warnings.filterwarnings("ignore", message=".*LeafSpec.*")
                callbacks = [] if watch is None else [watch]
                fit(build("mlp"), data("mlp"), *callbacks, max_epochs=4, logger=loggers, log_every_n_steps=1)
            said.append(Counter(str(warning.message) for warning in caught))
        assert len(told) > 30
        assert [alert.name for alert in watch.alerts] == ["there is a norm"]
        return loggers, told, watch.alerts, said[1] - said[0]

    return train


def agree(told, seen):
    """Everything told was seen, to single precision, NaN as NaN."""
    for tag, points in told.items():
        assert set(points) <= set(seen[tag]), tag
        for step, value in points.items():
            assert seen[tag][step] == pytest.approx(value, rel=1e-6, nan_ok=True), (tag, step)


def in_csv(logger):
    seen = defaultdict(dict)
    with open(Path(logger.log_dir) / "metrics.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for tag, value in row.items():
                if value != "":
                    seen[tag][int(row["step"])] = float(value)
    return seen


def in_tensorboard(logger):
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def alerts_in(folder):
    lines = (Path(folder) / "shockwatch" / "alerts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["message"] for line in lines]


def test_csv(run, tmp_path):
    (logger,), told, alerts, warned = run(lambda: CSVLogger(tmp_path))
    agree(told, in_csv(logger))
    assert alerts_in(logger.log_dir) == [alert.message for alert in alerts]
    assert not warned


def test_several_at_once(run, tmp_path):
    """Two of one kind among them; the alerts are written once, in the first one's folder."""
    loggers, told, alerts, warned = run(
        lambda: CSVLogger(tmp_path, name="a"),
        lambda: TensorBoardLogger(tmp_path, name="b"),
        lambda: CSVLogger(tmp_path, name="c"),
    )
    agree(told, in_csv(loggers[0]))
    agree(told, in_tensorboard(loggers[1]))
    agree(told, in_csv(loggers[2]))
    assert alerts_in(loggers[0].log_dir) == [alert.message for alert in alerts]
    assert len(list(tmp_path.rglob("alerts.jsonl"))) == 1
    assert not warned


def test_wandb_offline(run, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    seen, titles = defaultdict(dict), []

    def make():
        wandb.finish()  # or the next logger takes up the same run
        logger = WandbLogger(save_dir=tmp_path, offline=True)
        experiment = logger.experiment
        log, alert = experiment.log, experiment.alert

        def listen(values, *args, **kwargs):
            for tag, value in values.items():
                seen[tag][values["trainer/global_step"]] = value
            log(values, *args, **kwargs)

        def hear(**kwargs):
            titles.append(kwargs["title"])
            alert(**kwargs)

        monkeypatch.setattr(experiment, "log", listen)
        monkeypatch.setattr(experiment, "alert", hear)
        return logger

    (logger,), told, _, warned = run(make)
    logger.experiment.finish()
    agree(told, seen)
    assert titles == ["shockwatch: there is a norm"]
    assert not warned


def test_mlflow(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    (logger,), told, alerts, warned = run(lambda: MLFlowLogger(tracking_uri=uri))
    client = mlflow.MlflowClient(tracking_uri=uri)
    seen = {tag: {m.step: m.value for m in client.get_metric_history(logger.run_id, tag)} for tag in told}
    agree(told, seen)
    (alert,) = alerts
    texts = client.get_run(logger.run_id).data.tags
    assert texts[f"shockwatch.alert.{alert.step}.there is a norm"] == "warning: It is above zero."
    assert not warned
