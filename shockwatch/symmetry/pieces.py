"""Parts of parameters and buffers that groups act on, as strided views."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom, Axis, resolve
from shockwatch.symmetry.values import Blocks, Symbol, Value


class Place:
    """Where an atom stands on a tensor of the model: a factor of one of its dimensions.

    A place remembers over restarts of the analysis into which parts it falls: a product of smaller
    places (heads times features) or consecutive segments (packed query, key, value).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: tuple[Place, ...] | None = None
        self.borders: set[int] = set()
        self.segments: tuple[Place, ...] | None = None

    def product(self, sizes: Sequence[int]) -> tuple[Place, ...]:
        """The places of the factors, made once."""
        if self.parts is None:
            self.parts = tuple(Place(size) for size in sizes)
        return self.parts

    def cut(self) -> None:
        """Turn the borders that were asked for into segments."""
        if self.borders and self.parts is None and self.segments is None:
            edges = [0, *sorted(self.borders), self.size]
            self.segments = tuple(Place(b - a) for a, b in itertools.pairwise(edges))


@dataclass(frozen=True)
class Narrow:
    """A range along one dimension."""

    axis: int
    start: int
    length: int
    index: int = field(compare=False)


@dataclass(frozen=True)
class _Unflatten:
    axis: int
    sizes: tuple[int, ...]


Step: TypeAlias = Narrow | _Unflatten


@dataclass(frozen=True, eq=False)
class Piece:
    """A rectangular part of one tensor of the model.

    Attributes:
        name: the tensor's name in the state.
        trainable: whether it is a parameter that training moves.
        symbol: the piece in the analysis.
        steps: how to cut it out of the tensor.
        stacked: whether the tensor is a stack of those of equal layers; the first dimension of the view runs over them.

    What is derived from the atoms is kept: read it only after the analysis, when no axis splits any more.
    """

    name: str
    trainable: bool
    symbol: Symbol
    steps: tuple[Step, ...]
    stacked: bool = False

    @cached_property
    def atoms(self) -> Axis:
        """One atom for each dimension of :meth:`view`."""
        return tuple(atom.root() for atom in self.symbol.atoms())

    @cached_property
    def _factors(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Dimensions that split further or vanish, last first."""
        sizes = [tuple(atom.size for atom in resolve(axis)) for axis in self.symbol.dims]
        return tuple((axis, sizes[axis]) for axis in reversed(range(len(sizes))) if len(sizes[axis]) != 1)

    @cached_property
    def label(self) -> str:
        """The tensor's name, with the number of the segment where it is packed."""
        cuts = [step for step in self.steps if isinstance(step, Narrow)]
        return ".".join([self.name, *(f"{cut.index}" for cut in cuts)])

    def positions(self, axis: Atom) -> list[int]:
        """The dimensions of :meth:`view` that run over ``axis``."""
        return [d for d, atom in enumerate(self.atoms) if atom is axis]

    def view(self, state: State) -> Tensor:
        """The piece of ``state``, a view with one dimension for each atom."""
        tensor = state[self.name]
        for step in self.steps:
            if isinstance(step, Narrow):
                tensor = tensor.narrow(step.axis, step.start, step.length)
            else:
                tensor = torch.unflatten(tensor, step.axis, step.sizes)
        for axis, sizes in self._factors:
            tensor = torch.unflatten(tensor, axis, sizes) if sizes else tensor.squeeze(axis)
        return tensor


def lay_out(name: str, trainable: bool, dims: Sequence[Place]) -> tuple[Value, list[Piece]]:
    """The tensor ``name`` as the analysis sees it, and its pieces.

    Args:
        dims: the places of its dimensions, with the splits and cuts found so far.
    """
    pieces: list[Piece] = []

    def build(columns: list[tuple[Place, int]], steps: list[Step]) -> Value:
        columns, steps = list(columns), list(steps)
        position = 0
        while position < len(columns):
            place, dim = columns[position]
            if place.parts is not None:
                steps.append(_Unflatten(position, tuple(part.size for part in place.parts)))
                columns[position : position + 1] = [(part, dim) for part in place.parts]
            elif place.segments is not None:
                outer, inner = _around(columns, position)
                children, start = [], 0
                for index, segment in enumerate(place.segments):
                    rest = [*columns[:position], (segment, dim), *columns[position + 1 :]]
                    children.append(build(rest, [*steps, Narrow(position, start, segment.size, index)]))
                    start += segment.size
                sizes = tuple(segment.size for segment in place.segments)
                return Blocks(dim, outer, inner, sizes, tuple(children))
            else:
                position += 1
        atoms: list[Axis] = [
            () if place.size == 1 else (Atom(place.size, places=(place,)),) for place, _ in columns
        ]
        whole = Symbol(tuple(atoms))
        pieces.append(Piece(name, trainable, whole, tuple(steps)))
        merged: list[Axis] = [() for _ in dims]
        for (_, dim), axis in zip(columns, atoms, strict=True):
            merged[dim] = (*merged[dim], *axis)
        return whole.with_dims(merged)

    value = build([(place, dim) for dim, place in enumerate(dims)], [])
    return value, pieces


def _around(columns: Sequence[tuple[Place, int]], position: int) -> tuple[int, int]:
    dim = columns[position][1]
    outer = inner = 1
    for index, (place, other) in enumerate(columns):
        if other == dim and index < position:
            outer *= place.size
        elif other == dim and index > position:
            inner *= place.size
    return outer, inner


def describe(pieces: Sequence[Piece]) -> str:
    """Names of the tensors behind ``pieces``, each once."""
    return ", ".join(dict.fromkeys(piece.name for piece in pieces))
