"""Alerts in Python's logging, under the logger ``shockwatch``."""

from __future__ import annotations

import logging

from shockwatch.alerts.alert import Alert

_log = logging.getLogger("shockwatch")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


def to_logging(alert: Alert) -> None:
    """Log the sentence of ``alert`` at the level of its severity."""
    _log.log(_LEVELS.get(alert.severity, logging.WARNING), "step %d: %s", alert.step, alert.message)
