"""Scalars in, alerts out."""

from shockwatch.alerts.alert import Alert, Severity
from shockwatch.alerts.manager import AlertManager, Alerts
from shockwatch.alerts.rule import Rule
from shockwatch.alerts.rule_file import load_rules
from shockwatch.alerts.rules import DEFAULT_RULES
from shockwatch.alerts.sinks import JsonLines, Sink, Sinks, to_logging

__all__ = [
    "DEFAULT_RULES",
    "Alert",
    "AlertManager",
    "Alerts",
    "JsonLines",
    "Rule",
    "Severity",
    "Sink",
    "Sinks",
    "load_rules",
    "to_logging",
]
