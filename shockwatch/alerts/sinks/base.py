"""Hands alerts to sinks; a sink that fails never hurts the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from shockwatch.alerts.alert import Alert
from shockwatch.errors import warn

Sink = Callable[[Alert], None]
"""Takes one alert; called on the main thread, so it must not take long."""


class Sinks:
    """The sinks of one run, by name. One that raises is warned about once, and tried again with the next alert."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def send(self, alerts: Iterable[Alert], sinks: Mapping[str, Sink]) -> None:
        """Hand every alert to every sink, in order."""
        for alert in alerts:
            for name, sink in sinks.items():
                try:
                    sink(alert)
                except Exception as error:
                    self._warn_once(name, error)

    def _warn_once(self, name: str, error: Exception) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warn(
                f"shockwatch: the alert sink '{name}' failed ({type(error).__name__}: {error}). "
                "Training goes on, the other sinks too; this is said once."
            )
