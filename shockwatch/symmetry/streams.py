"""Residual streams that norms alone read: which pieces turn with the stream, and how (theory.md 1, "rotation").

A stream ``x`` over an axis ``c`` may turn, ``x -> R x`` with ``R`` orthogonal, where everything that reads it either
normalises it over ``c`` (``R`` then passes the norm) or contracts it with weights that turn back. After a gain ``g``
the normalised stream turns as ``g R g^-1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.charges import ChargeSystem, carries
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.records import Law, Record
from shockwatch.symmetry.shifts import roots
from shockwatch.symmetry.values import Symbol


@dataclass(frozen=True)
class Turn:
    """How a tensor turns along the axis: with the stream, as ``R`` (no gain) or ``g R g^-1``."""

    gain: Piece | None = None


@dataclass(frozen=True)
class _Square:
    """The entrywise square of a stream: only its sum or mean over the axis stands still."""


@dataclass(frozen=True)
class _Undecided:
    """A part of the model that nothing has read yet."""

    piece: Piece


_Status: TypeAlias = Turn | _Square | _Undecided


@dataclass(frozen=True)
class Stream:
    """What a rotation of one axis moves.

    Attributes:
        axis: the features.
        centred: a norm removes the mean: the rotation must fix the vector of ones.
        moved: pieces that turn with the stream (writers), each with the gain it stands after (biases of norms) or none.
        read: pieces that turn back (readers), each with the gain before it or none.
        gains: the gains, which stay.
    """

    axis: Atom
    centred: bool
    moved: tuple[tuple[Piece, Piece | None], ...]
    read: tuple[tuple[Piece, Piece | None], ...]
    gains: tuple[Piece, ...]

    def anchors(self) -> list[Piece]:
        """Writers that no other rotation or scaling turns: their other axes have a meaning outside."""
        return [
            piece
            for piece, gain in self.moved
            if gain is None and all(atom is self.axis or atom.pinned for atom in piece.atoms)
        ]


class _Seen(Exception):
    """An operator sees the rotation."""


def find_streams(system: ChargeSystem) -> list[Stream]:
    """Every axis along which a stream may turn."""
    streams = []
    for axis in system.analysis.free_axes():
        try:
            stream = _Reader(system, axis).read()
        except _Seen:
            continue
        if stream.moved and stream.read:
            streams.append(stream)
    return streams


class _Reader:
    """Follows one axis through the records, in the order of the graph.

    Raises:
        _Seen: where an operator does not commute with rotations.
    """

    def __init__(self, system: ChargeSystem, axis: Atom) -> None:
        self._axis = axis
        self._records = system.records(axis)
        self._fixed = system.analysis.fixed
        self._pieces = {p.symbol.id: p for p in system.analysis.pieces}
        self._status: dict[int, _Status] = {}
        self._centred = False
        self._moved: dict[Piece, Piece | None] = {}
        self._read: dict[Piece, Piece | None] = {}
        self._gains: dict[Piece, None] = {}

    def read(self) -> Stream:
        for record in self._records:
            self._meet(record)
        touched = {*self._moved, *self._read, *self._gains}
        carrying = [p for p in self._pieces.values() if p.positions(self._axis)]
        if any(p not in touched or not p.trainable for p in carrying):
            raise _Seen
        moved, read = tuple(self._moved.items()), tuple(self._read.items())
        return Stream(self._axis, self._centred, moved, read, tuple(self._gains))

    def _of(self, symbol: Symbol) -> _Status | None:
        """None where ``symbol`` does not carry the axis."""
        count = carries(symbol, self._axis)
        if not count:
            return None
        if count > 1 or symbol.id in self._fixed:
            raise _Seen
        if symbol.id in self._status:
            return self._status[symbol.id]
        piece = self._pieces.get(symbol.id)
        if piece is None:
            raise _Seen
        return _Undecided(piece)

    def _set(self, symbol: Symbol, status: _Status) -> None:
        if carries(symbol, self._axis) != 1:
            raise _Seen
        self._status[symbol.id] = status

    def _turns(self, status: _Status | None, like: Turn) -> None:
        """Require that a tensor turns like another; a piece then is a writer (or the bias of a norm)."""
        if isinstance(status, _Undecided):
            piece = status.piece
            if self._moved.setdefault(piece, like.gain) is not like.gain:
                raise _Seen
            if piece in self._read or piece in self._gains:
                raise _Seen
        elif status != like:
            raise _Seen

    def _meet(self, record: Record) -> None:
        if record.operator == "running statistics" or record.law is Law.FIX:
            raise _Seen
        states = [self._of(symbol) for symbol in record.inputs]
        known = [s for s in states if s is not None]
        if not known:
            # The axis enters here, from nothing that is a part of the model.
            raise _Seen
        law = record.law
        if law is Law.ADD:
            if len(known) < len(states):
                raise _Seen
            self._add(record, known)
        elif law is Law.SELECT:
            self._select(record, known)
        elif law in (Law.MULTIPLY, Law.CONTRACT) and len(states) == 2:
            if len(known) == 1:
                self._pass(record, known[0])
            elif law is Law.CONTRACT:
                self._contract(record, states)
            else:
                self._multiply(record, states)
        elif law is Law.NORMALIZE:
            self._normalize(record, known[0])
        elif law is Law.POWER and record.exponent == 2.0 and known[0] == Turn():
            self._set(record.output, _Square())
        else:
            raise _Seen

    def _add(self, record: Record, known: Sequence[_Status]) -> None:
        turn = next((s for s in known if isinstance(s, Turn)), Turn())
        for status in known:
            self._turns(status, turn)
        self._set(record.output, turn)

    def _select(self, record: Record, known: Sequence[_Status]) -> None:
        if len(known) < len(record.inputs):
            raise _Seen
        if isinstance(known[0], _Square):
            if record.operator not in ("sum", "mean") or carries(record.output, self._axis):
                raise _Seen
            return
        turn = next((s for s in known if isinstance(s, Turn)), known[0])
        if len(known) > 1 or record.factor != 1.0 or record.operator not in ("expand",):
            # A repeated piece may still be a gain; anything else of a piece writes into the stream.
            turn = turn if isinstance(turn, Turn) else Turn()
            for status in known:
                self._turns(status, turn)
        self._set(record.output, turn)

    def _pass(self, record: Record, status: _Status) -> None:
        """A product with something that does not carry the axis."""
        if record.law is Law.CONTRACT and self._axis in roots(record.atoms):
            raise _Seen
        turn = status if isinstance(status, Turn) else Turn()
        self._turns(status, turn)
        self._set(record.output, turn)

    def _contract(self, record: Record, states: Sequence[_Status | None]) -> None:
        if self._axis not in roots(record.atoms) or carries(record.output, self._axis):
            raise _Seen
        turn = next((s for s in states if isinstance(s, Turn)), None)
        weight = next((s for s in states if isinstance(s, _Undecided)), None)
        if turn is None or (weight is None and list(states) != [Turn(), Turn()]):
            raise _Seen
        if weight is not None:
            piece = weight.piece
            if piece in self._moved or piece in self._gains:
                raise _Seen
            if self._read.setdefault(piece, turn.gain) is not turn.gain:
                raise _Seen

    def _multiply(self, record: Record, states: Sequence[_Status | None]) -> None:
        if list(states) == [Turn(), Turn()] and record.inputs[0].id == record.inputs[1].id:
            self._set(record.output, _Square())
            return
        gain = next((s for s in states if isinstance(s, _Undecided)), None)
        if gain is None or Turn() not in states:
            raise _Seen
        piece = gain.piece
        if piece.atoms != (self._axis,) or piece in self._moved or piece in self._read:
            raise _Seen
        self._gains[piece] = None
        self._set(record.output, Turn(piece))

    def _normalize(self, record: Record, status: _Status) -> None:
        if roots(record.atoms) != {self._axis}:
            raise _Seen
        self._turns(status, Turn())
        self._centred |= record.centred
        self._set(record.output, Turn())
