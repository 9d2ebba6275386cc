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


def test_an_alert_says_how_sure_it_is():
    sure = rule(
        forecast_tag="shock/arrival_steps",
        error_tag="shock/arrival_error",
        score_tag="shock/forecast_score",
        message="{forecast}; {score}",
    )
    values = {TAG: 3.0, "shock/arrival_steps": 20.0, "shock/arrival_error": 6.5}
    (alert,) = AlertManager([sure]).update(0, values)
    assert alert.error == 6.5
    assert alert.message == (
        "in about 20 steps (80 % interval: 14 to 26); no earlier forecast of this run could be checked yet"
    )
    (alert,) = AlertManager([sure]).update(0, values | {"shock/forecast_score": 0.034})
    assert alert.message.endswith("past forecasts of this run were off by 3 % of the steps left (median)")
    (alert,) = AlertManager([sure]).update(0, {TAG: 3.0, "shock/arrival_error": 6.5})
    assert (alert.forecast, alert.error) == (None, None)


def test_a_forecast_of_each_block_is_its_own():
    far = rule(tag="block/*/collapse_steps", direction="below", forecast_tag="block/*/collapse_steps")
    values = {"block/a.0/collapse_steps": 9.0, "block/b/collapse_steps": 1.0}
    (alert,) = AlertManager([far]).update(0, values)
    assert (alert.tag, alert.forecast) == ("block/b/collapse_steps", 1.0)


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


def test_a_value_beyond_at_once_needs_no_second_one():
    assert steps_raised([3, 1, 5, 1, 3, 3], patience=2, at_once=5.0) == [2, 5]
    assert steps_raised([0.5, 3, 0.1], direction="below", threshold=1.0, patience=2, at_once=0.2) == [2]
    assert steps_raised([5, 1, 5, 1, 5], cooldown=35, patience=2, at_once=5.0) == [0, 4]


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
    assert new.state_dict() == {"watches": [], "spoken": {}}


def two(**changes) -> AlertManager:
    """A mild and a severe rule about one event, on two tags."""
    mild = rule(name="mild", event="trouble", severity="warning", **changes)
    severe = rule(name="severe", event="trouble", severity="critical", tag="quotient/norm", **changes)
    return AlertManager([mild, severe])


def said(manager, rows) -> list[list[str]]:
    return [
        [alert.name for alert in manager.update(10 * i, {TAG: speed, "quotient/norm": norm})]
        for i, (speed, norm) in enumerate(rows)
    ]


def test_of_rules_about_one_event_the_most_severe_speaks():
    assert said(two(), [(3, 3)]) == [["severe"]]
    assert said(two(), [(0, 0), (3, 0), (3, 3)]) == [[], ["mild"], ["severe"]]


def test_an_event_is_not_spoken_of_again_within_its_cooldown_unless_it_is_worse():
    assert said(two(cooldown=25), [(3, 3), (0, 0), (3, 0), (0, 0), (3, 0)]) == [
        ["severe"],
        [],
        [],
        [],
        ["mild"],
    ]
    assert said(two(cooldown=25), [(3, 0), (0, 3)]) == [["mild"], ["severe"]]


def test_rules_about_different_events_do_not_silence_each_other():
    manager = AlertManager([rule(name="a", cooldown=100), rule(name="b", tag="quotient/norm", cooldown=100)])
    assert said(manager, [(3, 3)]) == [["a", "b"]]


def test_the_silence_about_an_event_survives_a_checkpoint(tmp_path):
    first, second = two(cooldown=25), two(cooldown=25)
    assert said(first, [(3, 3)]) == [["severe"]]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.update(10, {TAG: 0.0, "quotient/norm": 0.0}) == []
    assert second.update(20, {TAG: 3.0, "quotient/norm": 0.0}) == []
    assert [alert.name for alert in two(cooldown=25).update(20, {TAG: 3.0})] == ["mild"]


def test_of_the_tags_of_one_rule_the_most_extreme_speaks():
    values = {f"block/{name}/effective_rank": rank for name, rank in (("a", 1.0), ("b", 0.5), ("c", 0.7))}
    manager = AlertManager([rule(tag="block/*/effective_rank", direction="below")])
    assert [alert.tag for alert in manager.update(0, values)] == ["block/b/effective_rank"]
    assert manager.update(1, values) == []


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
        ({"event": ""}, "event=''"),
        ({"release": 2.5}, r"release=2\.5: must be <= threshold=2\.0"),
        ({"release": 1.5, "direction": "below"}, r"release=1\.5: must be >= threshold"),
        ({"armed_by": 3.0}, r"armed_by=3\.0"),
        ({"at_once": 1.0}, r"at_once=1\.0: must be >= threshold=2\.0"),
        ({"at_once": 3.0, "direction": "below"}, r"at_once=3\.0: must be <= threshold"),
        ({"error_tag": "block/*/collapse_steps"}, r"error_tag='block/\*/collapse_steps'"),
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
    with pytest.raises(ValueError, match="must be 'default', a sequence of Rule or the path"):
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
        "phase/edge_steps": math.nan,
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
        ({"shock/lr_lambda_max": 2.3, "phase/edge_steps": 0.0}, 2, "edge of stability", "warning"),
        ({"shock/lr_lambda_max": 4.5, "phase/edge_steps": 0.0}, 1, "far beyond the edge", "critical"),
        ({"block/h.0/collapse_steps": 60.0}, 1, "attention collapse ahead", "warning"),
        ({"phase/edge_steps": 70.0}, 2, "edge of stability ahead", "info"),
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
    forecasts = {"transition ahead": 150.0, "edge of stability ahead": 70.0, "attention collapse ahead": 60.0}
    assert alert.forecast == forecasts.get(name)
    assert "in about 150 steps" in alert.message or name != "transition ahead"


def test_default_messages_are_one_or_two_sentences_and_names_differ():
    assert len({rule.name for rule in DEFAULT_RULES}) == len(DEFAULT_RULES)
    for default in DEFAULT_RULES:
        message = default.alert(100, default.tag.replace("*", "x"), 1.0, {}).message
        assert message.endswith(".")
        assert message.count(". ") <= 1
        assert "\n" not in message
    assert "phase/changepoint" not in {rule.tag for rule in DEFAULT_RULES}


def test_default_rules_say_how_sure_they_are():
    for default in DEFAULT_RULES:
        values = {tag: 40.0 for tag in (default.forecast_tag, default.error_tag, default.score_tag) if tag}
        message = default.alert(100, default.tag, 3.21, values).message
        if default.error_tag is not None:
            assert "80 % interval: 0 to 80" in message
        elif default.forecast_tag is not None:
            assert "in about 40 steps" in message
            assert "may also" in message
        elif default.name != "divergence":  # which is a fact
            assert "3.21" in message
            assert f"{default.threshold:.3g}" in message
