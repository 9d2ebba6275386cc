"""Follow a constant shift through the linear part of a step to the biases that can take it up."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.records import Law, Record
from shockwatch.symmetry.shifts import ShiftAnalysis, removes_shift, roots
from shockwatch.symmetry.values import Symbol

Axes = tuple[Atom, ...]

# Selections that do not pass a constant unchanged: padding brings in zeros.
_NOT_CONSTANT = ("cat", "convolution", "constant_pad_nd", "cumsum", "pool", "upsample")


@dataclass(frozen=True)
class Step:
    """One linear map that a shift meets: a contraction with a piece, or a gain, times a number.

    Shapes: from a tensor over ``before`` to one over ``after``.
    """

    before: Axes
    after: Axes
    factor: float
    weight: Piece | None = None

    def _letters(self) -> tuple[str, str, str]:
        assert self.weight is not None
        between = [atom.root() for atom in self.weight.atoms]
        axes = dict.fromkeys((*self.before, *self.after, *between))
        names = dict(zip(axes, string.ascii_letters, strict=False))
        return (
            "".join(names[a] for a in self.before),
            "".join(names[a] for a in between),
            "".join(names[a] for a in self.after),
        )

    def forward(self, shift: Tensor, state: State) -> Tensor:
        """The image of ``shift``; leading dimensions are a batch."""
        if self.weight is None:
            return self.factor * shift
        x, w, y = self._letters()
        return self.factor * torch.einsum(
            f"...{x},{w}->...{y}", shift, self.weight.view(state).to(shift.dtype)
        )

    def backward(self, image: Tensor, state: State) -> Tensor:
        """The adjoint of :meth:`forward`."""
        if self.weight is None:
            return self.factor * image
        x, w, y = self._letters()
        return self.factor * torch.einsum(f"{y},{w}->{x}", image, self.weight.view(state).to(image.dtype))


@dataclass(frozen=True)
class Sink:
    """A bias that takes the shift up, and the maps between."""

    piece: Piece
    axes: Axes
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Transport:
    """A shift of ``source`` over ``axes`` (constant along its other axes) and all that takes it up."""

    source: Piece
    axes: Axes
    sinks: tuple[Sink, ...]


class _Seen(Exception):
    """Something downstream sees the shift."""


def find_transports(system: ChargeSystem) -> list[Transport]:
    """Independent transports, each source once; a former source takes up no later shift."""
    analysis = ShiftAnalysis(system)
    result: list[Transport] = []
    closed: set[int] = set()
    pieces = [p for p in system.analysis.pieces if p.trainable and len(_axes(p)) == len(p.atoms)]
    candidates = [(p, axes) for p in pieces for axes in dict.fromkeys((_axes(p), _free(p))) if axes]
    # Last, shifts that are constant along every axis: they take little, and must not stand in the way of others.
    candidates += [(p, ()) for p in pieces]
    for piece, axes in candidates:
        if piece.symbol.id in closed:
            continue
        try:
            sinks = _Follower(analysis, closed | {piece.symbol.id}).follow(piece.symbol, axes, ())
        except _Seen:
            continue
        if sinks:
            result.append(Transport(piece, axes, tuple(sinks)))
            closed.add(piece.symbol.id)
    return result


def tied_shifts(system: ChargeSystem) -> list[Piece]:
    """Pieces read more than once that may all shift by one number: each reader removes it in its own way."""
    analysis = ShiftAnalysis(system)
    result = []
    for piece in system.analysis.pieces:
        if not piece.trainable or len(piece.atoms) < 2 or len(analysis.uses(piece.symbol)) < 2:
            continue
        try:
            if not _Follower(analysis, {piece.symbol.id}).follow(piece.symbol, (), ()):
                result.append(piece)
        except _Seen:
            continue
    return result


def _axes(piece: Piece) -> Axes:
    return tuple(dict.fromkeys(atom.root() for atom in piece.atoms))


def _free(piece: Piece) -> Axes:
    """The axes without outside meaning: an embedding shifts alike for every token."""
    return tuple(axis for axis in _axes(piece) if not axis.pinned)


class _Follower:
    def __init__(self, analysis: ShiftAnalysis, closed: set[int]) -> None:
        self._analysis = analysis
        self._closed = closed

    def follow(self, symbol: Symbol, axes: Axes, steps: tuple[Step, ...]) -> list[Sink]:
        """What takes up a shift of ``symbol`` over ``axes``.

        Raises:
            _Seen: if nothing can.
        """
        uses = self._analysis.uses(symbol)
        if not uses:
            raise _Seen
        sinks: list[Sink] = []
        for record in uses:
            sinks += self._meet(record, symbol, axes, steps)
        return sinks

    def _meet(self, record: Record, symbol: Symbol, axes: Axes, steps: tuple[Step, ...]) -> list[Sink]:
        constant = [axis for axis in roots(symbol.atoms()) if axis not in axes]
        if removes_shift(record) and not roots(record.atoms) & set(axes):
            return []
        if any(self._analysis.absorbs(record, symbol, frozenset([axis])) for axis in constant):
            return []
        if record.law is Law.ADD:
            for other in record.inputs:
                if other.id != symbol.id and (sink := self._sink(other, axes)) is not None:
                    return [Sink(sink, axes, steps)]
            return self.follow(record.output, axes, steps)
        if record.law is Law.SELECT:
            carried = set(axes) <= roots(record.output.atoms())
            if not carried or any(word in record.operator for word in _NOT_CONSTANT):
                raise _Seen
            step = () if record.factor == 1.0 else (Step(axes, axes, record.factor),)
            return self.follow(record.output, axes, (*steps, *step))
        if record.law in (Law.MULTIPLY, Law.CONTRACT) and len(record.inputs) == 2:
            first, second = record.inputs
            if first.id == second.id:
                raise _Seen
            return self._product(record, second if symbol.id == first.id else first, axes, steps)
        raise _Seen

    def _product(self, record: Record, other: Symbol, axes: Axes, steps: tuple[Step, ...]) -> list[Sink]:
        summed = roots(record.atoms)
        weight = self._analysis.piece(other)
        if weight is not None:
            between = [atom.root() for atom in weight.atoms]
            # Where the shift is constant along a summed axis the weight is summed over it.
            inside = record.law is Law.CONTRACT or set(between) <= set(axes)
            if not inside or len(set(between)) < len(between) or not summed <= set(between):
                raise _Seen
            after = tuple(a for a in dict.fromkeys((*axes, *between)) if a not in summed)
            return self.follow(record.output, after, (*steps, Step(axes, after, 1.0, weight)))
        if record.law is Law.CONTRACT and not summed & set(axes) and self._rows_sum_to_one(other, summed):
            return self.follow(record.output, axes, steps)
        raise _Seen

    def _rows_sum_to_one(self, symbol: Symbol, axes: frozenset[Atom]) -> bool:
        maker = self._analysis.maker(symbol)
        while maker is not None and maker.law is Law.SELECT and maker.operator == "expand":
            maker = self._analysis.maker(maker.inputs[0])
        softmax = maker is not None and maker.law is Law.SOFTMAX and "log" not in maker.operator
        return softmax and maker is not None and roots(maker.atoms) == axes

    def _sink(self, symbol: Symbol, axes: Axes) -> Piece | None:
        """A bias that adds into ``symbol`` and nothing else, over ``axes`` and perhaps others."""
        if len(self._analysis.uses(symbol)) != 1:
            return None
        piece = self._analysis.piece(symbol)
        if piece is not None:
            own = [atom.root() for atom in piece.atoms]
            fits = set(axes) <= set(own) and len(set(own)) == len(own)
            return piece if fits and symbol.id not in self._closed else None
        maker = self._analysis.maker(symbol)
        if maker is None or not set(axes) <= roots(maker.output.atoms()):
            return None
        if maker.law is Law.ADD:
            return self._first(maker.inputs, axes)
        if (
            maker.law is Law.SELECT
            and maker.factor == 1.0
            and maker.operator in ("embedding", "expand", "slice")
        ):
            return self._sink(maker.inputs[0], axes)
        return None

    def _first(self, symbols: Sequence[Symbol], axes: Axes) -> Piece | None:
        return next((sink for s in symbols if (sink := self._sink(s, axes)) is not None), None)
