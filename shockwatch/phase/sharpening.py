"""Attention on its way to a collapse of its entropy, told from the growth of its logits."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from shockwatch.phase.trend_line import line

_MEMORY = 8  # observations a trend is read from
_FEWEST = 4
_PREFIX, _SUFFIX = "block/", "/logit_norm"

COLLAPSE = 10.0
"""Growth of the logits over their first value at which attention counts as collapsed.

An initialisation makes logits of order one. With logits up to ``s`` over ``T`` tokens the entropy can fall to
``log(1 + (T-1) e^-s') + s sqrt(T (T-1)) e^-s' / (1 + (T-1) e^-s')``, ``s' = s sqrt(T / (T-1))`` (Zhai et al. 2023,
theorem 3.1): to a quarter of ``log T`` at ``s = 3.8`` for 6 tokens, 5.7 for 64 and 8.6 for 1024.
"""


class Sharpening:
    """Steps until the logits of an attention block have grown tenfold, if they go on growing exponentially.

    Read off the straight line through the logarithm of the last eight values of ``block/<name>/logit_norm``: it is
    given where the line rises by more than two standard errors, and no farther ahead than the line has been watched.
    Growth that slows down counts at the pace of the last three values: attention that has found its pattern stops.
    """

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._seen: dict[str, deque[tuple[float, float]]] = {}

    def update(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Take an observation; ``block/<name>/collapse_steps`` of every block that feeds a softmax.

        0 beyond the level, NaN where nothing is foreseen.
        """
        found = {}
        for tag, value in values.items():
            if tag.startswith(_PREFIX) and tag.endswith(_SUFFIX):
                name = tag.removeprefix(_PREFIX).removesuffix(_SUFFIX)
                found[f"{_PREFIX}{name}/collapse_steps"] = self._steps(name, step, value)
        return found

    def _steps(self, name: str, step: int, value: float) -> float:
        if not (math.isfinite(value) and value > 0.0):
            return math.nan
        left = math.log(COLLAPSE * self._first.setdefault(name, value) / value)
        seen = self._seen.setdefault(name, deque(maxlen=_MEMORY))
        if seen and step <= seen[-1][0]:
            seen.clear()
        seen.append((float(step), math.log(value)))
        if left <= 0.0:
            return 0.0
        if len(seen) < _FEWEST:
            return math.nan
        slope, error = line(seen)
        if slope <= 2.0 * error:
            return math.nan
        (earlier, before), (now, latest) = seen[-3], seen[-1]
        pace = min(slope, (latest - before) / (now - earlier))
        if pace <= 0.0:
            return math.nan
        ahead = left / pace
        return ahead if ahead <= seen[-1][0] - seen[0][0] else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain types."""
        return {
            "first": dict(self._first),
            "seen": {name: [list(pair) for pair in seen] for name, seen in self._seen.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`."""
        self._first = {str(name): float(value) for name, value in state["first"].items()}
        self._seen = {
            str(name): deque(((float(s), float(v)) for s, v in seen), maxlen=_MEMORY)
            for name, seen in state["seen"].items()
        }
