"""Symmetry groups of a network, read off the graph of one training step, and the quotient by them."""

from shockwatch.symmetry.declared import Declared, Side
from shockwatch.symmetry.infer import infer_symmetries, quotient_of
from shockwatch.symmetry.quotient import Quotient

__all__ = ["Declared", "Quotient", "Side", "infer_symmetries", "quotient_of"]
