"""Which axes are those of queries and keys: what is contracted along them goes into a softmax."""

from __future__ import annotations

from collections.abc import Sequence

from shockwatch.symmetry.axes import Atom, resolve
from shockwatch.symmetry.records import Law, Record


def feeds_softmax(records: Sequence[Record], axis: Atom, weights: frozenset[int]) -> bool:
    """Whether two activations meet along ``axis`` and a softmax reads what comes of it.

    Args:
        records: the laws of the step, in the order of the graph.
        axis: of the weights on both sides.
        weights: the symbols of the weights themselves: where one is contracted along ``axis`` the maps follow one
            another (value and output, linear and linear) and do not meet.
    """
    reached: set[int] = set()
    for record in records:
        along = {atom.root() for atom in resolve(record.atoms)}
        meets = record.law is Law.CONTRACT and axis.root() in along
        if meets and any(symbol.id in weights for symbol in record.inputs):
            return False
        follows = record.law is not Law.CONTRACT and any(symbol.id in reached for symbol in record.inputs)
        if follows and record.law is Law.SOFTMAX:
            return True
        if meets or follows:
            reached.add(record.output.id)
    return False
