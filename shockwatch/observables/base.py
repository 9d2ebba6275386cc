"""What an observable sees, and what it must give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shockwatch.snapshot import State
from shockwatch.symmetry import Quotient


@dataclass(frozen=True)
class Point:
    """One snapshot, raw and canonical.

    Attributes:
        step: optimiser steps taken.
        training_time: sum of effective learning rates.
        raw: the parameters as they are.
        canonical: the canonical representative, aligned with the one before.
        quotient: the quotient both belong to.
    """

    step: int
    training_time: float
    raw: State
    canonical: State
    quotient: Quotient


class Observable(ABC):
    """Scalars computed from the path of snapshots; one small class for each family.

    Tags beginning with ``quotient/`` and ``block/`` must not depend on the gauge.
    """

    @abstractmethod
    def compute(self, point: Point, previous: Point | None) -> dict[str, float]:
        """Values by tag at ``point``; NaN where the path is still too short."""

    def state_dict(self) -> dict[str, Any]:
        """What has to outlive a restart, in plain types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
