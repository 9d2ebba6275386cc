"""Applies alert rules to the scalars of each observation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shockwatch.alerts.alert import SEVERITIES, Alert
from shockwatch.alerts.rule import Rule
from shockwatch.alerts.rule_file import load_rules
from shockwatch.alerts.rules import DEFAULT_RULES


@dataclass
class _Watch:
    """What one rule remembers of one tag."""

    armed: bool = False
    count: int = 0
    raised: bool = False
    last_step: int | None = None


@dataclass
class _Spoken:
    """The last alert about one event, of whichever rule."""

    step: int
    cooldown: int
    severity: int


Alerts = str | Path | Sequence[Rule]
"""``"default"``, rules, or the path of a YAML file of rules (see :func:`load_rules`)."""


class AlertManager:
    """Turns scalars into alerts, each said once.

    A rule raises on a tag when ``patience`` consecutive values count, or one is beyond ``at_once``, and again
    only after a value has passed the release level and ``cooldown`` steps have gone by. NaN is no value: it
    neither counts nor breaks a series. An infinite value counts on its side.

    Rules about the same ``event`` speak with one voice: of one observation only the most severe alert is
    kept (among equals that of the first rule, and of its tags the most extreme value), and for the cooldown
    of an alert the event is spoken of again only with a higher severity. What is held back counts as said.

    Args:
        rules: ``"default"``, rules of your own, or the path of a YAML file; an empty sequence raises nothing.

    Raises:
        ValueError: if ``rules`` is none of these, the file is wrong, or two rules share a name.
    """

    def __init__(self, rules: Alerts = "default") -> None:
        self.rules = _rules(rules)
        names = [rule.name for rule in self.rules]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"alerts: two rules share the name {' and '.join(map(repr, doubles))}")
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._spoken: dict[str, _Spoken] = {}

    def update(self, step: int, values: Mapping[str, float]) -> list[Alert]:
        """Take the scalars of one observation and return the alerts they raise, in the order of the rules.

        Args:
            step: step at which the snapshot was taken.
            values: scalars by tag; tags that no rule asks for are ignored.
        """
        raised: dict[str, tuple[Rule, Alert]] = {}
        for rule in self.rules:
            for tag in values if "*" in rule.tag else (rule.tag,):
                value = values.get(tag, math.nan)
                if math.isnan(value) or not rule.matches(tag):
                    continue
                watch = self._watches.setdefault((rule.name, tag), _Watch())
                if _raises(rule, watch, step, value):
                    alert = rule.alert(step, tag, value, values)
                    other = raised.get(rule.topic)
                    if other is None or _louder(rule, alert, *other):
                        raised[rule.topic] = (rule, alert)
        return [alert for rule, alert in raised.values() if self._speaks(rule, alert)]

    def _speaks(self, rule: Rule, alert: Alert) -> bool:
        """Tell whether the event may be spoken of now, and remember that it was."""
        severity = SEVERITIES.index(alert.severity)
        last = self._spoken.get(rule.topic)
        # A step before the last alert means that the run was set back: its cooldown is void.
        cooling = last is not None and 0 <= alert.step - last.step < last.cooldown
        if last is not None and cooling and severity <= last.severity:
            return False
        self._spoken[rule.topic] = _Spoken(alert.step, rule.cooldown, severity)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, as plain types fit for a checkpoint loaded with ``weights_only``."""
        return {
            "watches": [
                {
                    "rule": name,
                    "tag": tag,
                    "armed": watch.armed,
                    "count": watch.count,
                    "raised": watch.raised,
                    "last_step": watch.last_step,
                }
                for (name, tag), watch in self._watches.items()
            ],
            "spoken": {topic: [s.step, s.cooldown, s.severity] for topic, s in self._spoken.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`; that of rules which are gone is dropped."""
        names = {rule.name for rule in self.rules}
        self._watches = {
            (str(entry["rule"]), str(entry["tag"])): _Watch(
                armed=bool(entry["armed"]),
                count=int(entry["count"]),
                raised=bool(entry["raised"]),
                last_step=None if entry["last_step"] is None else int(entry["last_step"]),
            )
            for entry in state["watches"]
            if entry["rule"] in names
        }
        topics = {rule.topic for rule in self.rules}
        # a checkpoint of an earlier version has no such entry
        spoken = state.get("spoken", {})
        self._spoken = {t: _Spoken(*map(int, entry)) for t, entry in spoken.items() if t in topics}


def _rules(given: Alerts) -> tuple[Rule, ...]:
    allowed = "must be 'default', a sequence of Rule or the path of a YAML file of rules"
    if isinstance(given, (str, Path)):
        if given == "default":
            return DEFAULT_RULES
        if not Path(given).is_file():
            raise ValueError(f"alerts={str(given)!r}: {allowed}; there is no such file")
        return load_rules(given)
    rules = [rule for rule in given if isinstance(rule, Rule)] if isinstance(given, Sequence) else None
    if rules is None or len(rules) != len(given):
        raise ValueError(f"alerts={given!r}: {allowed}")
    return tuple(rules)


def _raises(rule: Rule, watch: _Watch, step: int, value: float) -> bool:
    """Advance ``watch`` by one value; tell whether it raises an alert."""
    watch.armed = watch.armed or rule.arms(value)
    if watch.raised and rule.released_by(value):
        watch.raised = False
    if watch.raised or not watch.armed:
        return False
    watch.count = watch.count + 1 if rule.counts(value) else 0
    # A step before the last alert means that the run was set back: its cooldown is void.
    cooling = watch.last_step is not None and 0 <= step - watch.last_step < rule.cooldown
    enough = watch.count >= rule.patience or rule.counts_at_once(value)
    if not enough or cooling:
        return False
    watch.raised, watch.count, watch.last_step = True, 0, step
    return True


def _louder(rule: Rule, alert: Alert, other_rule: Rule, other: Alert) -> bool:
    """Tell whether ``alert`` is said instead of ``other``, which came first."""
    if rule is other_rule:
        return alert.value > other.value if rule.direction == "above" else alert.value < other.value
    return SEVERITIES.index(alert.severity) > SEVERITIES.index(other.severity)
