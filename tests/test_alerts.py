"""Alert rules: said once, said when it counts, silent on healthy runs."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shockwatch.alerts import DEFAULT_RULES, Alert, AlertManager, Rule
from shockwatch.phase import PhaseState

TAG = "quotient/speed"


def rule(**changes) -> Rule:
    return Rule(**{"name": "fast", "tag": TAG, "threshold": 2.0, "message": "{tag} is {value}.", **changes})


def steps_raised(values, tag=TAG, manager=None, spacing=10, **changes) -> list[int]:
    """Indices of the values at which a manager with this one rule raises."""
    manager = AlertManager([rule(**changes)]) if manager is None else manager
    return [i for i, value in enumerate(values) if manager.update(spacing * i, {tag: value})]


def test_an_alert_says_everything():
    manager = AlertManager([rule(forecast_tag="shock/arrival_steps", severity="critical")])
    (alert,) = manager.update(70, {TAG: 3.0, "shock/arrival_steps": 120.4})
    assert alert == Alert("fast", "critical", 70, TAG, 3.0, 2.0, 120.4, "quotient/speed is 3.")
    with pytest.raises(dataclasses.FrozenInstanceError):
        alert.value = 1.0


@pytest.mark.parametrize("forecast", [math.nan, math.inf, None])
def test_a_forecast_that_is_not_finite_is_none(forecast):
    values = {TAG: 3.0} if forecast is None else {TAG: 3.0, "shock/arrival_steps": forecast}
    (alert,) = AlertManager([rule(forecast_tag="shock/arrival_steps", message="{forecast}")]).update(
        0, values
    )
    assert alert.forecast is None
    assert alert.message == "at a step that cannot be told yet"


def test_raised_once_until_released():
    assert steps_raised([1, 2, 5, 1.9, 2, 1.4, 2, 3], release=1.5) == [1, 6]
    assert steps_raised([1, 2, 5, 1.9, 2]) == [1, 4]


def test_patience_counts_consecutive_values():
    assert steps_raised([3, 3, 1, 3, 3, 3, 3], patience=3) == [5]


def test_cooldown_holds_back_what_still_counts_afterwards():
    assert steps_raised([3, 0, 3, 3, 3, 3], cooldown=35) == [0, 4]


def test_a_run_that_was_set_back_is_not_held_back():
    manager = AlertManager([rule(cooldown=1000)])
    assert manager.update(500, {TAG: 3.0})
    assert not manager.update(100, {TAG: 0.0})
    assert manager.update(110, {TAG: 3.0})


def test_below():
    assert steps_raised([3, 1, 0.5, 2.5, 1], direction="below", threshold=1.0, release=2.0) == [1, 4]


def test_a_sleeping_rule_wakes_when_armed():
    changes = {"direction": "below", "threshold": 1.0, "armed_by": 8.0}
    assert steps_raised([0.5, 3, 0.5, 8, 3, 0.5], **changes) == [5]


def test_nan_neither_counts_nor_breaks_a_series():
    assert steps_raised([3, math.nan, 3, math.nan, 3], patience=3) == [4]
    assert steps_raised([math.nan] * 5) == []
    assert steps_raised([3, math.nan, 3], release=1.0) == [0]


def test_a_missing_tag_is_no_value():
    manager = AlertManager([rule(patience=2)])
    assert not manager.update(0, {TAG: 3.0})
    assert not manager.update(1, {"raw/norm": 3.0})
    assert manager.update(2, {TAG: 3.0})


def test_infinity_counts_on_its_side_only():
    assert steps_raised([math.inf, math.inf]) == [0]
    assert steps_raised([-math.inf]) == []
    assert steps_raised([math.inf, -math.inf], direction="below", threshold=1.0) == [1]


def test_a_pattern_judges_each_tag_on_its_own():
    manager = AlertManager([rule(tag="block/*/effective_rank", direction="below", patience=2)])
    a, b, other = "block/h.0/qk/effective_rank", "block/b/effective_rank", "block/b/stable_rank"
    assert not manager.update(0, {a: 1.0, b: 3.0, other: 0.0})
    assert [alert.tag for alert in manager.update(1, {a: 1.0, b: 1.0, other: 0.0})] == [a]
    assert [alert.tag for alert in manager.update(2, {a: 1.0, b: 1.0})] == [b]


@given(st.lists(st.floats(0, 4), max_size=40), st.integers(1, 4), st.integers(0, 40))
def test_between_two_alerts_lie_a_release_and_the_cooldown(values, patience, cooldown):
    found = steps_raised(values, patience=patience, cooldown=cooldown, release=1.0)
    for first, second in pairwise(found):
        assert 10 * (second - first) >= cooldown
        assert min(values[first:second]) < 1.0
    for index in found:
        assert index + 1 >= patience
        assert all(value >= 2.0 for value in values[index + 1 - patience : index + 1])


@given(st.lists(st.floats(), max_size=30))
def test_the_mirror_image_raises_the_same(values):
    below = steps_raised([-v for v in values], direction="below", threshold=-2.0, release=-1.0, patience=2)
    assert steps_raised(values, release=1.0, patience=2) == below


def test_resuming_from_a_checkpoint_changes_nothing(tmp_path):
    values = [0, 3, 3, 3, 1, 3, 3, 0, 3, 3, 3]
    changes = {"patience": 2, "cooldown": 60, "release": 1.5, "armed_by": 1.0}
    whole = steps_raised(values, **changes)
    for cut in range(len(values)):
        first, second = AlertManager([rule(**changes)]), AlertManager([rule(**changes)])
        found = steps_raised(values[:cut], manager=first)
        torch.save(first.state_dict(), tmp_path / "state.pt")
        second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        found += [i for i in range(cut, len(values)) if second.update(10 * i, {TAG: values[i]})]
        assert found == whole


def test_memory_of_rules_that_are_gone_is_dropped():
    old = AlertManager([rule(name="old")])
    old.update(0, {TAG: 3.0})
    new = AlertManager([rule()])
    new.load_state_dict(old.state_dict())
    assert new.state_dict() == {"watches": []}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name=''"),
        ({"tag": "quotient/sped"}, "did you mean 'quotient/speed'"),
        ({"tag": "blocks/*/effective_rank"}, "matches no family"),
        ({"forecast_tag": "arrival"}, "forecast_tag='arrival'"),
        ({"threshold": math.nan}, "threshold=nan"),
        ({"threshold": "2"}, "threshold='2'"),
        ({"direction": "over"}, "direction='over'"),
        ({"severity": "bad"}, "severity='bad'"),
        ({"patience": 0}, "patience=0"),
        ({"cooldown": -1}, "cooldown=-1"),
        ({"cooldown": True}, "cooldown=True"),
        ({"release": 2.5}, r"release=2\.5: must be <= threshold=2\.0"),
        ({"release": 1.5, "direction": "below"}, r"release=1\.5: must be >= threshold"),
        ({"armed_by": 3.0}, r"armed_by=3\.0"),
        ({"message": "{val}"}, "message='{val}'"),
        ({"message": "{"}, "message='{'"),
    ],
)
def test_rules_are_checked_at_construction(changes, message):
    with pytest.raises(ValueError, match=message):
        rule(**changes)


def test_managers_are_checked_at_construction():
    with pytest.raises(ValueError, match="alerts='defaults'"):
        AlertManager("defaults")
    with pytest.raises(ValueError, match="must be 'default' or a sequence of Rule"):
        AlertManager([TAG])
    with pytest.raises(ValueError, match="share the name 'fast'"):
        AlertManager([rule(), rule()])
    assert AlertManager([]).update(0, {TAG: 9.0}) == []


def smooth_run(rng: np.random.Generator, i: int) -> dict[str, float]:
    return {
        "quotient/speed": math.exp(-0.01 * i + 0.2 * rng.standard_normal()),
        "shock/proximity": abs(0.1 * rng.standard_normal()),
        "shock/arrival_steps": math.nan,
        "shock/lr_lambda_max": 1.2 + 0.2 * rng.standard_normal(),
        "phase/state": float(PhaseState.SMOOTH if i < 300 else PhaseState.CONVERGED),
        "phase/changepoint": float(i % 97 == 96),
        "block/h.0/effective_rank": 20.0 * math.exp(-0.005 * i) + 1.0,
        # A small deep linear net learns one direction at a time: rank one is its healthy start.
        "block/small/effective_rank": 3.5 if i < 5 else 1.01,
    }


def test_a_smooth_healthy_run_raises_nothing():
    rng, manager = np.random.default_rng(0), AlertManager()
    assert [alert for i in range(400) for alert in manager.update(50 * i, smooth_run(rng, i))] == []


@pytest.mark.parametrize(
    ("trouble", "count", "name", "severity"),
    [
        ({"shock/proximity": 1.3, "shock/arrival_steps": 150.0}, 2, "transition ahead", "warning"),
        ({"shock/lr_lambda_max": 2.3}, 3, "edge of stability", "warning"),
        ({"phase/state": 5.0}, 1, "divergence", "critical"),
        ({"block/h.0/effective_rank": 1.0}, 5, "rank collapse", "warning"),
    ],
)
def test_each_default_rule_raises_on_its_trouble_once(trouble, count, name, severity):
    rng, manager = np.random.default_rng(0), AlertManager()
    alerts = [
        a for i in range(50) for a in manager.update(i, smooth_run(rng, 0) | (trouble if i >= 20 else {}))
    ]
    (alert,) = alerts
    assert (alert.name, alert.severity, alert.step) == (name, severity, 19 + count)
    assert alert.forecast == (150.0 if name == "transition ahead" else None)
    assert "in about 150 steps" in alert.message or name != "transition ahead"


def test_default_messages_are_one_sentence_and_names_differ():
    assert len({rule.name for rule in DEFAULT_RULES}) == len(DEFAULT_RULES)
    for default in DEFAULT_RULES:
        message = default.alert(100, "block/x/effective_rank", 1.0, None).message
        assert message.endswith(".")
        assert message.count(". ") == 0
        assert "\n" not in message
    assert "phase/changepoint" not in {rule.tag for rule in DEFAULT_RULES}
