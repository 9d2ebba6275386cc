"""From one snapshot to its scalars: what is watched, the curvature of its loss, and the analysis as a whole."""

from shockwatch.engine.engine import Engine
from shockwatch.engine.sketched import SketchedEngine

__all__ = ["Engine", "SketchedEngine"]
