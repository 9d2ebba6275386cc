"""Where alerts go. A sink is any callable that takes an :class:`~shockwatch.alerts.Alert`; a new one is a file here."""

from shockwatch.alerts.sinks.base import Sink, Sinks
from shockwatch.alerts.sinks.json_lines import JsonLines
from shockwatch.alerts.sinks.logging import to_logging

__all__ = ["JsonLines", "Sink", "Sinks", "to_logging"]
