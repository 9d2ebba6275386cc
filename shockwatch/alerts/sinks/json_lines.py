"""Alerts as lines of JSON in the run folder."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from shockwatch.alerts.alert import Alert


class JsonLines:
    """Appends one JSON object per alert to ``<folder>/shockwatch/alerts.jsonl``.

    Numbers that JSON does not know are written as the strings ``"nan"``, ``"inf"`` and ``"-inf"``. Nothing
    is created before the first alert.

    Args:
        folder: the run folder; nothing outside it is written, not through a link either.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / "shockwatch" / "alerts.jsonl"

    def __call__(self, alert: Alert) -> None:
        """Append ``alert``.

        Raises:
            ValueError: if a link leads the file out of the run folder.
            OSError: if it cannot be written.
        """
        path = self.path.resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise ValueError(f"{self.path} leads to {path}, outside the run folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({key: _plain(value) for key, value in dataclasses.asdict(alert).items()})
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
