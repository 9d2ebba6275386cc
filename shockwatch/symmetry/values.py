"""What the analysis knows of a tensor: which atoms each of its dimensions is made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from shockwatch.symmetry.axes import Axis, fresh, pin, regroup, resolve, size_of

_ids = itertools.count()


@dataclass(frozen=True, eq=False)
class Symbol:
    """A tensor of the step. Views and scalar multiples of one tensor share its ``id``."""

    dims: tuple[Axis, ...]
    id: int = field(default_factory=lambda: next(_ids))
    constant: float | None = None

    def atoms(self) -> Axis:
        """All atoms, in row-major order."""
        return tuple(atom for axis in self.dims for atom in resolve(axis))

    def with_dims(self, dims: Sequence[Axis]) -> Symbol:
        """The same tensor, its dimensions arranged otherwise."""
        return Symbol(tuple(dims), self.id, self.constant)


@dataclass(frozen=True, eq=False)
class Blocks:
    """A tensor cut along one factor of one dimension: ``[outer][sum of sizes][inner]``.

    The children have the parent's dimensions, but ``sizes[k]`` in place of the cut factor: packed
    projections and concatenations are tensors whose parts obey different groups.
    """

    dim: int
    outer: int
    inner: int
    sizes: tuple[int, ...]
    children: tuple[Value, ...]

    @property
    def total(self) -> int:
        """Size of the cut factor."""
        return sum(self.sizes)

    def same_cut(self, children: Sequence[Value], dim: int | None = None) -> Blocks:
        """New children under the same cut."""
        return Blocks(self.dim if dim is None else dim, self.outer, self.inner, self.sizes, tuple(children))


Value: TypeAlias = Symbol | Blocks


def shape(value: Value) -> tuple[int, ...]:
    """Sizes of the dimensions."""
    if isinstance(value, Symbol):
        return tuple(size_of(axis) for axis in value.dims)
    sizes = list(shape(value.children[0]))
    sizes[value.dim] = value.outer * value.total * value.inner
    return tuple(sizes)


def symbols(value: Value) -> list[Symbol]:
    """The uncut parts of a value."""
    if isinstance(value, Symbol):
        return [value]
    return [symbol for child in value.children for symbol in symbols(child)]


def unknown(sizes: Sequence[int], constant: float | None = None) -> Symbol:
    """A tensor whose indices mean something outside the parameters: nothing acts on it."""
    return Symbol(tuple(fresh(size, pinned=True) for size in sizes), constant=constant)


def pin_all(value: Value) -> None:
    """Forbid any group on every axis of ``value``."""
    for symbol in symbols(value):
        pin(symbol.atoms())


def factor(symbol: Symbol, dim: int, outer: int, total: int, inner: int) -> tuple[Axis, Axis, Axis]:
    """The atoms of dimension ``dim`` as ``[outer][total][inner]``."""
    before, middle, after = regroup(symbol.dims[dim], (outer, total, inner))
    return before, middle, after


def replace_dim(dims: Sequence[Axis], dim: int, axis: Axis) -> tuple[Axis, ...]:
    """``dims`` with one dimension exchanged."""
    return (*dims[:dim], axis, *dims[dim + 1 :])
