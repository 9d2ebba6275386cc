"""When a scalar becomes an alert: a threshold with patience, hysteresis and a pause."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from shockwatch.alerts.alert import SEVERITIES, Alert, Severity
from shockwatch.errors import require_choice, require_float, require_positive_int
from shockwatch.tags import require_known_tag


@dataclass(frozen=True)
class Rule:
    """Raise an alert when a scalar crosses a threshold and stays there.

    Attributes:
        name: name of the alert; unique among the rules of a manager.
        tag: a tag of :mod:`shockwatch.tags`; ``*`` stands for any name, as in
            ``block/*/effective_rank``, and every matching tag is judged on its own.
        threshold: level that counts, itself included.
        message: sentence for the reader; may hold ``{tag}``, ``{value}``, ``{threshold}``, ``{step}``
            and ``{forecast}`` (the steps ahead in words).
        direction: whether values ``"above"`` or ``"below"`` the threshold count.
        release: after an alert, the value must have been beyond this level on the safe side before the
            rule can raise again; the threshold itself if None.
        patience: consecutive values that must count.
        cooldown: steps after an alert before the same tag may raise again.
        severity: ``"info"``, ``"warning"`` or ``"critical"``.
        forecast_tag: scalar that says how many steps ahead the event is, if any.
        armed_by: the rule sleeps on a tag until its value has been at or beyond this level on the safe
            side; None: awake from the start.
        event: what the alert is about; rules about one event speak with one voice (see
            :class:`~shockwatch.alerts.AlertManager`). The name of the rule if None.

    Raises:
        ValueError: if a field is out of range, the tag unknown or the message cannot be filled in.
    """

    name: str
    tag: str
    threshold: float
    message: str
    direction: Literal["above", "below"] = "above"
    release: float | None = None
    patience: int = 1
    cooldown: int = 0
    severity: Severity = "warning"
    forecast_tag: str | None = None
    armed_by: float | None = None
    event: str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name={self.name!r}: must be a non-empty string")
        if self.event is not None and (not isinstance(self.event, str) or not self.event):
            raise ValueError(f"event={self.event!r}: must be a non-empty string or None")
        self._check_tags()
        require_float("threshold", self.threshold)
        require_choice("direction", self.direction, ("above", "below"))
        require_choice("severity", self.severity, SEVERITIES)
        require_positive_int("patience", self.patience)
        if isinstance(self.cooldown, bool) or not isinstance(self.cooldown, int) or self.cooldown < 0:
            raise ValueError(f"cooldown={self.cooldown!r}: must be an integer >= 0 (steps)")
        for field, level in (("release", self.release), ("armed_by", self.armed_by)):
            if level is None:
                continue
            require_float(field, level)
            if self._excess(level) > 0.0:
                side = "<=" if self.direction == "above" else ">="
                raise ValueError(f"{field}={level!r}: must be {side} threshold={self.threshold!r}")
        try:
            self._sentence("tag", 0.0, 0, None)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                f"message={self.message!r}: may only hold {{tag}}, {{value}}, {{threshold}}, {{step}} and "
                f"{{forecast}} ({error!r})"
            ) from error

    def _check_tags(self) -> None:
        if isinstance(self.tag, str) and "*" in self.tag:
            try:
                require_known_tag("tag", self.tag.replace("*", "name"))
            except ValueError as error:
                raise ValueError(f"tag={self.tag!r}: matches no family of tags ({error})") from None
        else:
            require_known_tag("tag", self.tag)
        if self.forecast_tag is not None:
            require_known_tag("forecast_tag", self.forecast_tag)

    @property
    def topic(self) -> str:
        """The event the rule is about."""
        return self.name if self.event is None else self.event

    def matches(self, tag: str) -> bool:
        """Tell whether the rule judges ``tag``."""
        return fnmatchcase(tag, self.tag) if "*" in self.tag else tag == self.tag

    def counts(self, value: float) -> bool:
        """Tell whether ``value`` is at or beyond the threshold; NaN is not."""
        return self._excess(value) >= 0.0

    def released_by(self, value: float) -> bool:
        """Tell whether ``value`` is beyond the release level on the safe side."""
        level = self.threshold if self.release is None else self.release
        return value < level if self.direction == "above" else value > level

    def arms(self, value: float) -> bool:
        """Tell whether ``value`` wakes a sleeping rule."""
        if self.armed_by is None:
            return True
        return value <= self.armed_by if self.direction == "above" else value >= self.armed_by

    def alert(self, step: int, tag: str, value: float, forecast: float | None) -> Alert:
        """Return the alert that says so."""
        message = self._sentence(tag, value, step, forecast)
        return Alert(self.name, self.severity, step, tag, value, self.threshold, forecast, message)

    def _excess(self, value: float) -> float:
        # Not a plain difference: inf - inf is NaN, and an infinite value does count.
        if math.isinf(value):
            return value if self.direction == "above" else -value
        return value - self.threshold if self.direction == "above" else self.threshold - value

    def _sentence(self, tag: str, value: float, step: int, forecast: float | None) -> str:
        words = "at a step that cannot be told yet" if forecast is None else f"in about {forecast:.0f} steps"
        number, threshold = f"{value:.3g}", f"{self.threshold:.3g}"
        return self.message.format(tag=tag, value=number, threshold=threshold, step=step, forecast=words)
