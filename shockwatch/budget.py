"""When a snapshot is also a probe: the expensive look at the curvature."""

from __future__ import annotations

from typing import Literal

from shockwatch.errors import require_float

Probe = Literal["auto", "off"] | int
"""``"auto"``: as the budget allows; ``"off"``: never; an integer n: every n-th snapshot."""

NEAR_PROXIMITY = 0.5
"""From this ``shock/proximity`` on a shock counts as near."""

NEAR_FACTOR = 4.0
"""How many times the budget may be spent while a shock is near."""


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


class ProbeSchedule:
    """Decides which snapshots are probes.

    The first snapshot is one in every mode but ``"off"``, so that a short run sees every tag. ``"auto"`` then
    probes whenever the recurring cost so far is within ``budget`` of the elapsed time (at most one probe
    beyond it), or within 4 times ``budget`` while the last proximity is 0.5 or more. An integer n looks
    only at the snapshots' numbers: a probe lost to a full queue falls to the next snapshot.

    Args:
        mode: see ``Probe``.
        budget: share of the training time, in (0, 1].
    """

    def __init__(self, mode: Probe, budget: float) -> None:
        self._mode = require_probe("probe", mode)
        self._budget = require_float("budget", budget, 0.0, 1.0, open_low=True)
        self._last: int | None = None

    def due(self, index: int, spent: float, elapsed: float, proximity: float) -> bool:
        """Whether snapshot number ``index`` (from 0, in order) is a probe; remembers that it was.

        Args:
            index: number of the snapshot since the start.
            spent: recurring seconds of capture and worker so far.
            elapsed: seconds of training so far.
            proximity: last known ``shock/proximity``.
        """
        probe = self._decide(index, spent, elapsed, proximity)
        if probe:
            self._last = index
        return probe

    def _decide(self, index: int, spent: float, elapsed: float, proximity: float) -> bool:
        if self._mode == "off":
            return False
        if self._last is None:
            return True
        if isinstance(self._mode, int):
            return index // self._mode > self._last // self._mode
        allowed = self._budget * (NEAR_FACTOR if proximity >= NEAR_PROXIMITY else 1.0)
        return spent <= allowed * elapsed
