"""Scalars in, alerts out."""

from shockwatch.alerts.alert import Alert, Severity
from shockwatch.alerts.manager import AlertManager
from shockwatch.alerts.rule import Rule
from shockwatch.alerts.rules import DEFAULT_RULES

__all__ = ["DEFAULT_RULES", "Alert", "AlertManager", "Rule", "Severity"]
