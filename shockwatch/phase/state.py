"""The phase of training as a state machine with hysteresis."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

from shockwatch.phase.hysteresis import Hysteresis

_SURGE = 3.0  # times the slowest speed of the approach: the transition has begun
_SPENT = 0.5  # times the fastest speed of the shock: it is over
_REST = 10  # observations after a shock during which it is still worth saying that there was one
_FIRST_LOSSES = 5  # observations that set the level of the loss
_UNSTABLE = 0.01  # share of lambda_max beyond which a negative lambda_min forbids "converged"


class PhaseState(IntEnum):
    """What training is doing. The integer is the value of the tag ``phase/state``."""

    SMOOTH = 0
    APPROACHING = 1
    SHOCK = 2
    RELAXED = 3
    CONVERGED = 4
    DIVERGING = 5


class PhaseMachine:
    """Turns a few scalars per observation into one :class:`PhaseState`.

    - ``DIVERGING``: loss or parameters are not finite, or the loss has been above ten times the largest
      of the first five twice running; left when it has been below five times that level three times.
    - ``APPROACHING``: proximity at or above 1 twice running; left when below 0.5 (or not supported: NaN)
      three times running.
    - ``SHOCK``: the speed has grown to three times its lowest value during the approach.
    - ``RELAXED``: the speed has fallen to half of its peak in the shock; ten observations long.
    - ``CONVERGED``: the speed has been below 1/1000 of its peak three times running and the curvature,
      where known, is not markedly negative (a plateau before a transition is slow too); left above
      1/100.
    - ``SMOOTH``: none of these.

    A proximity of None (no probe at this observation) changes nothing.
    """

    def __init__(self) -> None:
        self.state = PhaseState.SMOOTH
        self._near = Hysteresis(enter=1.0, leave=0.5, patience_enter=2, patience_leave=3)
        self._still = Hysteresis(enter=3.0, leave=2.0, patience_enter=3, patience_leave=1)
        self._blown = Hysteresis(enter=10.0, leave=5.0, patience_enter=2, patience_leave=3)
        self._peak = 0.0
        self._mark = math.nan
        self._rested = 0
        self._first_losses: list[float] = []

    def update(
        self,
        *,
        finite: bool,
        loss: float,
        proximity: float | None = None,
        speed: float = math.nan,
        lambda_min: float = math.nan,
        lambda_max: float = math.nan,
    ) -> PhaseState:
        """Take one observation and return the phase.

        Args:
            finite: whether all parameters are finite.
            loss: training loss; NaN or infinite is divergence.
            proximity: ``shock/proximity``, None where it was not computed, NaN where it is not supported.
            speed: ``quotient/speed``; NaN where unknown.
            lambda_min: smallest reduced curvature; NaN where unknown.
            lambda_max: largest reduced curvature; NaN where unknown.
        """
        if self._diverges(finite, loss):
            self.state = PhaseState.DIVERGING
            return self.state
        if self.state is PhaseState.DIVERGING:
            self.state = PhaseState.SMOOTH
        if proximity is not None:
            self._near.update(proximity)
        self._observe_stillness(speed, lambda_min, lambda_max)
        self.state = self._next(speed)
        return self.state

    def _diverges(self, finite: bool, loss: float) -> bool:
        if not finite or not math.isfinite(loss):
            self._blown.force()
            return True
        if len(self._first_losses) < _FIRST_LOSSES:
            self._first_losses.append(loss)
            return self._blown.update(0.0)
        level = max(self._first_losses)
        # A loss that may be negative or zero has no natural scale to grow by.
        return self._blown.update(loss / level if level > 0.0 else 0.0)

    def _observe_stillness(self, speed: float, lambda_min: float, lambda_max: float) -> None:
        if not math.isfinite(speed):
            return
        self._peak = max(self._peak, speed)
        if self._peak == 0.0:
            return
        decades = math.log10(self._peak / speed) if speed > 0.0 else math.inf
        unstable = lambda_min < -_UNSTABLE * lambda_max
        self._still.update(0.0 if unstable else decades)

    def _next(self, speed: float) -> PhaseState:
        near = self._near.on
        if self.state is PhaseState.APPROACHING:
            if speed > 0.0:
                self._mark = min(self._mark, speed) if self._mark > 0.0 else speed
            if speed >= _SURGE * self._mark:
                self._mark = speed
                return PhaseState.SHOCK
            return PhaseState.APPROACHING if near else PhaseState.SMOOTH
        if self.state is PhaseState.SHOCK:
            self._mark = max(self._mark, speed) if math.isfinite(speed) else self._mark
            if not speed <= _SPENT * self._mark:
                return PhaseState.SHOCK
            self._rested = 0
            if not near:
                return PhaseState.RELAXED
        if near:
            self._mark = speed
            return PhaseState.APPROACHING
        if self._still.on:
            return PhaseState.CONVERGED
        if self.state is PhaseState.RELAXED:
            self._rested += 1
            return PhaseState.RELAXED if self._rested < _REST else PhaseState.SMOOTH
        return PhaseState.SMOOTH

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain types."""
        return {
            "state": int(self.state),
            "near": self._near.state_dict(),
            "still": self._still.state_dict(),
            "blown": self._blown.state_dict(),
            "peak": self._peak,
            "mark": self._mark,
            "rested": self._rested,
            "first_losses": list(self._first_losses),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory written by :meth:`state_dict`."""
        self.state = PhaseState(int(state["state"]))
        self._near.load_state_dict(state["near"])
        self._still.load_state_dict(state["still"])
        self._blown.load_state_dict(state["blown"])
        self._peak, self._mark = float(state["peak"]), float(state["mark"])
        self._rested = int(state["rested"])
        self._first_losses = [float(loss) for loss in state["first_losses"]]
