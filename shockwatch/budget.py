"""When a snapshot is taken, and when it is also a probe: the expensive look at the curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shockwatch.errors import require_float

Probe = Literal["auto", "off"] | int
"""``"auto"``: as the budget allows; ``"off"``: never; an integer n: every n-th snapshot."""

NEAR_PROXIMITY = 0.5
"""From this ``shock/proximity`` on a shock counts as near."""

NEAR_FACTOR = 4.0
"""How many times the budget may be spent while a shock is near."""

LEAST_SECONDS = 10.0
"""Until so much of the run has passed, what it allows may be spent: a short run sees something, too."""

PLAIN_SHARE = 0.5
"""Share of the budget that plain snapshots may take where probes are spaced to fit the rest."""


def require_probe(name: str, value: object) -> Probe:
    """Return ``value`` if it is a valid probe mode.

    Raises:
        ValueError: if it is not.
    """
    if value == "auto":
        return "auto"
    if value == "off":
        return "off"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(
        f"{name}={value!r}: must be 'auto', 'off' or an integer >= 1 (probe every that many snapshots)"
    )


@dataclass(frozen=True)
class Spending:
    """What one more snapshot or probe would bring the cost to.

    Attributes:
        seconds: spent so far, and expected for this one.
        elapsed: seconds of training so far.
        proximity: last known ``shock/proximity``.
    """

    seconds: float
    elapsed: float
    proximity: float = 0.0

    def within(self, share: float) -> bool:
        """Whether it stays within ``share`` of the elapsed time, or of ten seconds, whatever is longer; four times
        that while the last proximity is 0.5 or more."""
        factor = NEAR_FACTOR if self.proximity >= NEAR_PROXIMITY else 1.0
        return self.seconds <= factor * share * max(self.elapsed, LEAST_SECONDS)


class SnapshotSchedule:
    """Decides which of the snapshots that ``every_n_steps`` proposes are taken: those that the budget can pay.

    Where curvature is measured as the budget allows, half of it is left for that. A budget of 1 sets no limit, and who
    asks for a probe every n-th snapshot has set the pace himself.

    Args:
        mode: see ``Probe``.
        budget: share of the training time, in (0, 1].
    """

    def __init__(self, mode: Probe, budget: float) -> None:
        self._unlimited = budget >= 1.0 or isinstance(mode, int)
        self._share = budget * (PLAIN_SHARE if mode == "auto" else 1.0)

    def due(self, spending: Spending) -> bool:
        """Whether one more is taken.

        Args:
            spending: on plain snapshots alone.
        """
        return self._unlimited or spending.within(self._share)


class ProbeSchedule:
    """Decides which snapshots are probes.

    ``"auto"`` probes whenever the cost so far, with one more probe as expensive as the last one, stays within
    ``budget`` of the elapsed time, or within 4 times ``budget`` while the last proximity is 0.5 or more. The first
    probe is no exception: what it will take is estimated. An integer n looks only at the snapshots' numbers: the
    first is a probe, and one lost to a full queue falls to the next snapshot.

    Args:
        mode: see ``Probe``.
        budget: share of the training time, in (0, 1].
    """

    def __init__(self, mode: Probe, budget: float) -> None:
        self._mode = require_probe("probe", mode)
        self._budget = require_float("budget", budget, 0.0, 1.0, open_low=True)
        self._last: int | None = None

    def due(self, index: int, spending: Spending) -> bool:
        """Whether snapshot number ``index`` (from 0, in order) is a probe; remembers that it was.

        Args:
            index: number of the snapshot since the start.
            spending: seconds of capture and worker, those of one more probe included.
        """
        probe = self.possible(index, spending)
        if probe:
            self._last = index
        return probe

    def possible(self, index: int, spending: Spending) -> bool:
        """What ``due`` would say now, without remembering it; from any thread."""
        if self._mode == "off":
            return False
        if isinstance(self._mode, int):
            last = self._last
            return last is None or index // self._mode > last // self._mode
        return spending.within(self._budget)

    def first_at(self, spending: Spending) -> float | None:
        """Seconds into the run when the first probe can be paid, where it has to wait for that; else ``None``."""
        if self._last is not None or self._mode != "auto" or spending.within(self._budget):
            return None
        return spending.seconds / self._budget
