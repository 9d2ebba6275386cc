"""What is kept of a point where a copy of it is too much: a random projection, and which way it was turned."""

from shockwatch.sketches.frame import SignFrame
from shockwatch.sketches.projection import RandomProjection

__all__ = ["RandomProjection", "SignFrame"]
