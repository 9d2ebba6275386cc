"""Axes of tensors as ordered products of atoms, joined and split by the operators that touch them.

An *atom* is an axis that no operator of the step splits further. Two tensors share an atom when an
operator reads the one's axis against the other's, index by index.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

Axis = tuple["Atom", ...]
"""One dimension of a tensor, row-major product of atoms; empty for size 1."""


class Place(Protocol):
    """A factor of a dimension of a parameter, which remembers how it splits."""

    def product(self, sizes: Sequence[int]) -> Sequence[Place]:
        """The places of its factors."""
        ...


class AxisConflict(Exception):
    """Two axes cannot be matched factor by factor."""


class Atom:
    """An axis with identity: a node of a union-find forest that may later split into a product."""

    __slots__ = ("parent", "parts", "pinned", "places", "size", "twins")

    def __init__(self, size: int, pinned: bool = False, places: Iterable[Place] = ()) -> None:
        self.size = size
        self.parent: Atom | None = None
        self.parts: Axis | None = None
        self.pinned = pinned
        # Where this atom stands on a parameter or buffer: what a cut has to be reported to.
        self.places = set(places)
        # Axes of the same meaning that stay two: scores run over the tokens twice, as queries and as keys.
        self.twins: set[Atom] = set()

    def root(self) -> Atom:
        """The representative of this atom's class."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    def twin(self) -> Atom:
        """Another axis of the same meaning, never to be joined with this one."""
        root = self.root()
        other = Atom(root.size, root.pinned)
        root.twins.add(other)
        other.twins.add(root)
        return other

    def is_twin_of(self, other: Atom) -> bool:
        """Whether two roots are to stay two."""
        return any(twin.root() is other for twin in self.twins)

    def leaves(self) -> Axis:
        """The unsplit atoms this one is made of."""
        root = self.root()
        if root.parts is None:
            return (root,)
        return tuple(leaf for part in root.parts for leaf in part.leaves())


def fresh(size: int, pinned: bool = False) -> Axis:
    """A new axis of ``size``."""
    return () if size == 1 else (Atom(size, pinned),)


def resolve(axis: Axis) -> Axis:
    """``axis`` in terms of unsplit atoms."""
    return tuple(leaf for atom in axis for leaf in atom.leaves())


def size_of(axis: Iterable[Atom]) -> int:
    """Number of indices of an axis."""
    return math.prod(atom.size for atom in axis)


def split(atom: Atom, sizes: Sequence[int]) -> Axis:
    """Split an unsplit atom into a product; every tensor that carries it sees the parts."""
    root = atom.root()
    places = [place.product(sizes) for place in root.places]
    root.parts = tuple(
        Atom(size, root.pinned, (parts[position] for parts in places)) for position, size in enumerate(sizes)
    )
    return root.parts


def pin(axis: Iterable[Atom]) -> None:
    """Forbid any group on ``axis``: its indices mean something outside the parameters."""
    for atom in axis:
        for leaf in atom.leaves():
            leaf.pinned = True


def regroup(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Cut an axis into consecutive factors of the given sizes, splitting atoms where needed.

    Raises:
        AxisConflict: if a factor's border falls inside an atom that does not divide.
    """
    queue = list(resolve(axis))
    factors: list[Axis] = []
    for size in sizes:
        factor: list[Atom] = []
        missing = size
        while missing > 1:
            if not queue:
                raise AxisConflict
            atom = queue.pop(0)
            if missing % atom.size == 0:
                factor.append(atom)
                missing //= atom.size
            elif atom.size % missing == 0:
                head, tail = split(atom, (missing, atom.size // missing))
                factor.append(head)
                queue.insert(0, tail)
                missing = 1
            else:
                raise AxisConflict
        factors.append(tuple(factor))
    if queue:
        raise AxisConflict
    return factors


def join(first: Axis, second: Axis) -> None:
    """Identify two axes index by index. Where their factors do not match both are pinned."""
    left, right = list(resolve(first)), list(resolve(second))
    while left and right:
        a, b = left.pop(0).root(), right.pop(0).root()
        if a is b or a.is_twin_of(b):
            continue
        if a.size == b.size:
            b.parent = a
            a.pinned |= b.pinned
            a.places |= b.places
            a.twins |= b.twins
        elif max(a.size, b.size) % min(a.size, b.size) == 0:
            large, small = (a, b) if a.size > b.size else (b, a)
            parts = split(large, (small.size, large.size // small.size))
            (left if large is a else right)[:0] = parts
            (right if large is a else left)[:0] = [small]
        else:
            common = math.gcd(a.size, b.size)
            if common == 1:
                pin((a, b, *left, *right))
                return
            left[:0] = split(a, (common, a.size // common))
            right[:0] = split(b, (common, b.size // common))
