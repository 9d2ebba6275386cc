"""Whether the loss rises although curvature says that it should fall."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_RECENT, _HIGH = 5, 2  # of the last five losses, this many must be high: one broken batch is not enough
_SPREADS, _SHARE = 5.0, 0.2  # how far above the lowest level, in scatters and in itself
_LEVEL, _FEWEST = 10, 5  # losses that make a level, and how many there must be at least
_MEMORY = 256  # losses that the scatter is taken from
# half of the second differences of normal noise are below this many of its standard deviations
_HALF = 0.6745 * math.sqrt(6.0)


class LossRise:
    """Follows the losses of all steps, one by one, and tells once they are clearly above their lowest level.

    The level is the lowest mean of ten successive losses so far (of five to nine at the beginning). Two of the last
    five losses must be above it by a fifth of it and by five times the scatter of the up to 256 losses that led to it:
    of their second differences, from which a trend drops out, so that a steep fall is not taken for noise, nor is the
    rise itself. A loss that is not a number counts as high.

    Attributes:
        seen: whether that has happened; it stays so.
    """

    def __init__(self) -> None:
        self.seen = False
        self._lowest, self._scatter = math.inf, math.nan
        self._past: deque[float] = deque(maxlen=_MEMORY)

    def update(self, losses: Sequence[float]) -> bool:
        """Take the next losses, in order, and return ``seen``; how they are parted into calls makes no difference."""
        for loss in losses:
            self._past.append(loss)
            level = self._lowest + max(_SPREADS * self._scatter, _SHARE * abs(self._lowest))
            recent = list(self._past)[-_LEVEL:]
            if math.isfinite(level) and sum(not value <= level for value in recent[-_RECENT:]) >= _HIGH:
                self.seen = True
            mean = math.fsum(recent) / len(recent) if all(map(math.isfinite, recent)) else math.inf
            if len(recent) >= _FEWEST and mean < self._lowest:
                self._lowest, self._scatter = mean, _scatter(self._past)
        return self.seen

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain types."""
        return {
            "seen": self.seen,
            "lowest": self._lowest,
            "scatter": self._scatter,
            "past": list(self._past),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`."""
        self.seen = bool(state["seen"])
        # the first releases kept no scatter: it is taken again with the next lowest level
        self._lowest, self._scatter = float(state["lowest"]), float(state.get("scatter", math.nan))
        self._past = deque((float(loss) for loss in state["past"]), maxlen=_MEMORY)


def _scatter(losses: Iterable[float]) -> float:
    """Standard deviation of the noise in these losses, five at least, if it is normal."""
    past = [loss for loss in losses if math.isfinite(loss)]
    # a median: one broken batch must not hide the next
    return float(np.median(np.abs(np.diff(past, 2)))) / _HALF
