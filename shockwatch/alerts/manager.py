"""Applies alert rules to the scalars of each observation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shockwatch.alerts.alert import Alert
from shockwatch.alerts.rule import Rule
from shockwatch.alerts.rules import DEFAULT_RULES


@dataclass
class _Watch:
    """What one rule remembers of one tag."""

    armed: bool = False
    count: int = 0
    raised: bool = False
    last_step: int | None = None


class AlertManager:
    """Turns scalars into alerts, each said once.

    A rule raises on a tag when ``patience`` consecutive values count, and again only after a value has
    passed the release level and ``cooldown`` steps have gone by. NaN is no value: it neither counts nor
    breaks a series. An infinite value counts on its side.

    Args:
        rules: ``"default"`` or rules of your own; an empty sequence raises nothing.

    Raises:
        ValueError: if ``rules`` is neither, or two rules share a name.
    """

    def __init__(self, rules: Literal["default"] | Sequence[Rule] = "default") -> None:
        if isinstance(rules, str):
            if rules != "default":
                raise ValueError(f"alerts={rules!r}: must be 'default' or a sequence of Rule")
            rules = DEFAULT_RULES
        self.rules = tuple(rules)
        names = [rule.name if isinstance(rule, Rule) else None for rule in self.rules]
        if None in names:
            raise ValueError(f"alerts={rules!r}: must be 'default' or a sequence of Rule")
        doubles = sorted({str(name) for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"alerts: two rules share the name {' and '.join(map(repr, doubles))}")
        self._watches: dict[tuple[str, str], _Watch] = {}

    def update(self, step: int, values: Mapping[str, float]) -> list[Alert]:
        """Take the scalars of one observation and return the alerts they raise, in the order of the rules.

        Args:
            step: step at which the snapshot was taken.
            values: scalars by tag; tags that no rule asks for are ignored.
        """
        alerts = []
        for rule in self.rules:
            for tag in values if "*" in rule.tag else (rule.tag,):
                value = values.get(tag, math.nan)
                if math.isnan(value) or not rule.matches(tag):
                    continue
                watch = self._watches.setdefault((rule.name, tag), _Watch())
                if _raises(rule, watch, step, value):
                    alerts.append(rule.alert(step, tag, value, _forecast(rule, values)))
        return alerts

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
            ]
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
    if watch.count < rule.patience or cooling:
        return False
    watch.raised, watch.count, watch.last_step = True, 0, step
    return True


def _forecast(rule: Rule, values: Mapping[str, float]) -> float | None:
    forecast = math.nan if rule.forecast_tag is None else values.get(rule.forecast_tag, math.nan)
    return float(forecast) if math.isfinite(forecast) else None
