"""Whether the loss rises although curvature says that it should fall."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

_RECENT, _HIGH = 5, 2  # of the last five losses, this many must be high: one broken batch is not enough
_SPREADS, _SHARE = 5.0, 0.2  # how far above the lowest level, in scatters and in itself
_MEMORY = 64  # losses that the scatter is taken from
_BLOCK = 10  # losses, at least, that make a level once there are so many
_FEWEST = 3  # losses that make a level
_HALF = 0.6745 * math.sqrt(
    2.0
)  # half of the differences of normal noise are below this many standard deviations


class LossRise:
    """Follows the losses of all steps, in blocks, and tells once they are clearly above their lowest level.

    The level is the lowest mean of a block so far (of ten losses, if it holds fewer). Two of the last five losses
    must be above it by five times the scatter of the 64 losses before the block (of neighbours: a trend drops out)
    and by a fifth of it. A loss that is not a number counts as high.

    Attributes:
        seen: whether that has happened; it stays so.
    """

    def __init__(self) -> None:
        self.seen = False
        self._lowest = math.inf
        self._past: deque[float] = deque(maxlen=_MEMORY)

    def update(self, losses: Sequence[float]) -> bool:
        """Take the next block of losses, in order, and return ``seen``."""
        scatter = self._scatter()
        if math.isfinite(self._lowest) and math.isfinite(scatter):
            level = self._lowest + max(_SPREADS * scatter, _SHARE * abs(self._lowest))
            recent = [*self._past, *losses][-_RECENT:]
            self.seen = self.seen or sum(not loss <= level for loss in recent) >= _HIGH
        latest = [*self._past, *losses][-max(len(losses), _BLOCK) :]
        if len(latest) >= _FEWEST and all(map(math.isfinite, latest)):
            self._lowest = min(self._lowest, float(np.mean(latest)))
        self._past.extend(losses)
        return self.seen

    def _scatter(self) -> float:
        """Standard deviation of the noise in the losses so far, if it is normal; NaN if there are too few."""
        past = [loss for loss in self._past if math.isfinite(loss)]
        # a median: one broken batch must not hide the next
        return float(np.median(np.abs(np.diff(past)))) / _HALF if len(past) >= _FEWEST else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain types."""
        return {"seen": self.seen, "lowest": self._lowest, "past": list(self._past)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`."""
        self.seen = bool(state["seen"])
        self._lowest = float(state["lowest"])
        self._past = deque((float(loss) for loss in state["past"]), maxlen=_MEMORY)
