"""When a scalar becomes an alert: a threshold with patience, hysteresis and a pause."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        message: sentence for the reader; may hold ``{tag}``, ``{value}``, ``{threshold}``, ``{step}``,
            ``{forecast}`` (the steps ahead in words, with their interval) and ``{score}`` (how past forecasts of
            this run have held, in words).
        direction: whether values ``"above"`` or ``"below"`` the threshold count.
        release: after an alert, the value must have been beyond this level on the safe side before the
            rule can raise again; the threshold itself if None.
        patience: consecutive values that must count.
        at_once: level from which a single value is enough, whatever the patience: an event so near would not wait
            for a second look. None: there is no such level.
        cooldown: steps after an alert before the same tag may raise again.
        severity: ``"info"``, ``"warning"`` or ``"critical"``.
        forecast_tag: scalar that says how many steps ahead the event is, if any; ``*`` stands for what it
            stands for in ``tag``.
        error_tag: scalar that says by how many steps that may be off, four times in five.
        score_tag: scalar that says how past forecasts have held: their median error, as a share of the steps left.
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
    at_once: float | None = None
    cooldown: int = 0
    severity: Severity = "warning"
    forecast_tag: str | None = None
    error_tag: str | None = None
    score_tag: str | None = None
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
        for field, level in (
            ("release", self.release),
            ("armed_by", self.armed_by),
            ("at_once", self.at_once),
        ):
            if level is None:
                continue
            require_float(field, level)
            beyond = field == "at_once"
            if self._excess(level) * (-1.0 if beyond else 1.0) > 0.0:
                side = "<=" if (self.direction == "above") != beyond else ">="
                raise ValueError(f"{field}={level!r}: must be {side} threshold={self.threshold!r}")
        try:
            self._sentence("tag", 0.0, 0, None, None, None)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                f"message={self.message!r}: may only hold {{tag}}, {{value}}, {{threshold}}, {{step}}, "
                f"{{forecast}} and {{score}} ({error!r})"
            ) from error

    def _check_tags(self) -> None:
        if isinstance(self.tag, str) and "*" in self.tag:
            try:
                require_known_tag("tag", self.tag.replace("*", "name"))
            except ValueError as error:
                raise ValueError(f"tag={self.tag!r}: matches no family of tags ({error})") from None
        else:
            require_known_tag("tag", self.tag)
        for field in ("forecast_tag", "error_tag", "score_tag"):
            tag = getattr(self, field)
            if isinstance(tag, str) and "*" in tag and "*" not in self.tag:
                raise ValueError(f"{field}={tag!r}: may hold '*' only where tag={self.tag!r} does")
            if tag is not None:
                require_known_tag(field, tag.replace("*", "name") if isinstance(tag, str) else tag)

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

    def counts_at_once(self, value: float) -> bool:
        """Tell whether ``value`` needs no second one."""
        return self.at_once is not None and self._excess(value) >= self._excess(self.at_once)

    def released_by(self, value: float) -> bool:
        """Tell whether ``value`` is beyond the release level on the safe side."""
        level = self.threshold if self.release is None else self.release
        return value < level if self.direction == "above" else value > level

    def arms(self, value: float) -> bool:
        """Tell whether ``value`` wakes a sleeping rule."""
        if self.armed_by is None:
            return True
        return value <= self.armed_by if self.direction == "above" else value >= self.armed_by

    def alert(self, step: int, tag: str, value: float, values: Mapping[str, float]) -> Alert:
        """Return the alert that says so; ``values`` holds what is known of its forecast."""
        forecast, error, score = (
            self._look_up(other, tag, values) for other in (self.forecast_tag, self.error_tag, self.score_tag)
        )
        error = None if forecast is None else error
        message = self._sentence(tag, value, step, forecast, error, score)
        return Alert(self.name, self.severity, step, tag, value, self.threshold, forecast, message, error)

    def _look_up(self, wanted: str | None, tag: str, values: Mapping[str, float]) -> float | None:
        if wanted is None:
            return None
        if "*" in wanted:
            before, _, after = self.tag.partition("*")
            wanted = wanted.replace("*", tag[len(before) : len(tag) - len(after)])
        found = values.get(wanted, math.nan)
        return float(found) if math.isfinite(found) else None

    def _excess(self, value: float) -> float:
        # Not a plain difference: inf - inf is NaN, and an infinite value does count.
        if math.isinf(value):
            return value if self.direction == "above" else -value
        return value - self.threshold if self.direction == "above" else self.threshold - value

    def _sentence(
        self,
        tag: str,
        value: float,
        step: int,
        forecast: float | None,
        error: float | None,
        score: float | None,
    ) -> str:
        words = "at a step that cannot be told yet" if forecast is None else f"in about {forecast:.0f} steps"
        if forecast is not None and error is not None:
            low, high = max(0.0, forecast - error), forecast + error
            words += f" (80 % interval: {low:.0f} to {high:.0f})"
        held = "no earlier forecast of this run could be checked yet"
        if score is not None:
            held = f"past forecasts of this run were off by {100 * score:.0f} % of the steps left (median)"
        return self.message.format(
            tag=tag,
            value=f"{value:.3g}",
            threshold=f"{self.threshold:.3g}",
            step=step,
            forecast=words,
            score=held,
        )
