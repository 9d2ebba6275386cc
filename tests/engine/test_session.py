from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from shockwatch.alerts import AlertManager
from shockwatch.clock import TrainingClock
from shockwatch.session import Session, Settings, ShockwatchWarning, warn
from tests.engine.shockwatch_fakes import FakeAnalysis


def session(analysis: FakeAnalysis, model: nn.Module | None = None, **options: Any) -> Session:
    return Session(Settings(**options), AlertManager("default"), model or nn.Linear(2, 2), lambda: analysis)


@pytest.mark.parametrize(
    "options",
    [
        {"every_n_steps": 0},
        {"every_n_steps": 2.0},
        {"budget": 0.0},
        {"budget": 2},
        {"horizon": -1},
        {"probe": "sometimes"},
        {"probe": 0},
        {"seed": -1},
        {"seed": True},
    ],
)
def test_settings_are_validated(options: dict[str, Any]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}: must be"):
        Settings(**options)


def test_updates_come_in_order_with_their_axis_and_cost() -> None:
    watch = session(FakeAnalysis(proximity=2.0), probe=2)
    for step, axis in ((1, 0), (10, 9), (20, 19)):
        watch.take(step, axis, TrainingClock(), torch.tensor(0.1))
    watch.close(30)
    updates = watch.collect(25)
    assert [(u.step, u.axis) for u in updates] == [(1, 0), (10, 9), (20, 19)]
    assert [u.values["shockwatch/lag_steps"] for u in updates] == [24.0, 15.0, 5.0]
    assert ["shock/proximity" in u.values for u in updates] == [True, False, True]
    cost = {f"shockwatch/{name}" for name in ("lag_steps", "dropped", "worker_seconds", "overhead", "errors")}
    assert all(cost <= u.values.keys() for u in updates)
    assert watch.state is not None
    assert watch.state["count"] == 3
    assert watch.collect(25) == []


def test_snapshots_that_the_budget_cannot_pay_are_left_out_and_one_note_says_so() -> None:
    # what ten seconds allow is a microsecond
    watch = session(FakeAnalysis(), every_n_steps=5, budget=1e-7)
    for step in range(5, 100, 5):
        watch.take(step, step, TrainingClock(), None)
        assert watch.settle(30)
    watch.take(100, 100, TrainingClock(), None, last=True)
    watch.close(30)
    updates = watch.collect(100)
    # the first is set-up, the second is needed to know what one costs, the last is wanted
    assert [u.step for u in updates] in ([5, 100], [5, 10, 100])
    assert watch.last_step == 100
    assert all(u.values["shockwatch/dropped"] == 0.0 for u in updates)
    said = [note for u in updates for note in u.notes if "less often" in note]
    assert said == [
        "snapshots every 5 steps would take more than their share of budget=1e-07: they are taken less often."
    ]


def test_a_budget_of_one_leaves_nothing_out() -> None:
    watch = session(FakeAnalysis(seconds=0.01), every_n_steps=1, budget=1.0)
    for step in range(1, 21):
        watch.take(step, step, TrainingClock(), None)
        assert watch.settle(30)
    watch.close(30)
    assert [u.step for u in watch.collect(20)] == list(range(1, 21))


def test_analysis_error_is_one_warning_and_a_count() -> None:
    watch = session(FakeAnalysis(fail_at={1, 2}))
    for step in (1, 2, 3):
        watch.take(step, step, TrainingClock(), None)
    watch.close(30)
    with pytest.warns(ShockwatchWarning, match="ZeroDivisionError: at step 1") as caught:
        updates = watch.collect(3)
    assert len(caught) == 1
    assert [u.values["shockwatch/errors"] for u in updates] == [1.0, 2.0, 2.0]
    assert [u.step for u in updates] == [1, 2, 3]


def test_build_error_is_one_warning_and_nothing_else() -> None:
    def build() -> FakeAnalysis:
        raise KeyError("no such operator")

    with pytest.warns(ShockwatchWarning, match="no such operator"):
        watch = Session(Settings(), AlertManager("default"), nn.Linear(2, 2), build)
    assert not watch.active
    watch.take(1, 1, TrainingClock(), None)
    assert [u.values for u in watch.collect(1)] == [{"shockwatch/errors": 1.0}]
    watch.close(1)


def test_changed_model_stops_the_snapshots_with_one_warning() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    watch = session(FakeAnalysis(), model)
    watch.take(1, 1, TrainingClock(), None)
    model.append(nn.Linear(2, 2))
    with pytest.warns(ShockwatchWarning, match=r"added 1\.weight, 1\.bias") as caught:
        watch.take(2, 2, TrainingClock(), None)
    assert len(caught) == 1
    watch.take(3, 3, TrainingClock(), None)
    watch.close(30)
    updates = watch.collect(3)
    assert [u.step for u in updates] == [1, 2]
    assert [u.values["shockwatch/errors"] for u in updates] == [0.0, 1.0]


def test_alert_rule_error_is_reported_and_harmless() -> None:
    class Broken(AlertManager):
        def update(self, step: int, values: Any) -> Any:
            raise ArithmeticError("rule")

    watch = Session(Settings(), Broken("default"), nn.Linear(2, 2), FakeAnalysis)
    watch.take(1, 1, TrainingClock(), None)
    watch.close(30)
    with pytest.warns(ShockwatchWarning, match="rule"):
        (update,) = watch.collect(1)
    assert update.alerts == ()
    assert "raw/norm" in update.values


def test_a_warning_filter_set_to_error_does_not_raise(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "shockwatch"):
        warnings.simplefilter("error")
        warn("careful")
    assert "careful" in caplog.text


def test_resumed_state_reaches_the_analysis() -> None:
    analysis = FakeAnalysis()
    watch = Session(Settings(), AlertManager("default"), nn.Linear(2, 2), lambda: analysis, {"count": 7})
    assert analysis.loaded == {"count": 7}
    assert watch.state == {"count": 7}
    watch.close(30)
