"""Early-warning statistics, change points and the phase of training."""

from shockwatch.phase.change_point import ChangePointDetector
from shockwatch.phase.indicators import PhaseIndicators
from shockwatch.phase.state import PhaseMachine, PhaseState

__all__ = ["ChangePointDetector", "PhaseIndicators", "PhaseMachine", "PhaseState"]
