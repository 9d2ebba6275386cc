"""What an alert says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


@dataclass(frozen=True)
class Alert:
    """One event worth a person's attention.

    Attributes:
        name: name of the rule that raised it.
        severity: ``"info"``, ``"warning"`` or ``"critical"``.
        step: step at which the deciding snapshot was taken.
        tag: the scalar that crossed its threshold.
        value: its value.
        threshold: the threshold.
        forecast: steps until the event foretold, None where the rule or the theory gives none.
        message: one or two plain sentences: what it means, how sure that is, and what to try.
        error: half the width of an 80 % interval about ``forecast``, in steps; None where none is known.
    """

    name: str
    severity: Severity
    step: int
    tag: str
    value: float
    threshold: float
    forecast: float | None
    message: str
    error: float | None = None
