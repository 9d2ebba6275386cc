"""Which shifts of a tensor nothing downstream sees.

A softmax and a centring norm remove what is constant along their axes. A shift that is constant along some
axes passes sums, selections and linear maps that do not run over them.
"""

from __future__ import annotations

from collections.abc import Iterator

from shockwatch.symmetry.axes import Atom, resolve
from shockwatch.symmetry.charges import ChargeSystem, carries
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.records import Law, Record
from shockwatch.symmetry.values import Symbol

Axes = frozenset[Atom]


def removes_shift(record: Record) -> bool:
    """Whether a law removes what is constant along its atoms."""
    return record.law is Law.SOFTMAX or (record.law is Law.NORMALIZE and record.centred)


def roots(atoms: tuple[Atom, ...]) -> Axes:
    """The classes of some atoms."""
    return frozenset(atom.root() for atom in resolve(atoms))


def covers(symbol: Symbol, axes: Axes) -> bool:
    """Whether ``symbol`` carries each of ``axes`` once."""
    return all(carries(symbol, axis) == 1 for axis in axes)


class ShiftAnalysis:
    """Follows shifts through the records of a step, down to what removes them and up to what writes them."""

    def __init__(self, system: ChargeSystem) -> None:
        self._uses: dict[int, list[Record]] = {}
        self._makers: dict[int, Record] = {}
        self._known: dict[tuple[int, Axes], bool] = {}
        for record in system.analysis.records:
            if record.operator == "running statistics" or record.law is Law.FIX:
                continue
            for identity in dict.fromkeys(symbol.id for symbol in record.inputs):
                self._uses.setdefault(identity, []).append(record)
            self._makers.setdefault(record.output.id, record)
        self._pieces = {p.symbol.id: p for p in system.analysis.pieces if p.trainable}

    def piece(self, symbol: Symbol) -> Piece | None:
        """The trainable piece that ``symbol`` is, if it is one."""
        return self._pieces.get(symbol.id)

    def uses(self, symbol: Symbol) -> list[Record]:
        """The records that read ``symbol``."""
        return self._uses.get(symbol.id, [])

    def maker(self, symbol: Symbol) -> Record | None:
        """The record that makes ``symbol``."""
        return self._makers.get(symbol.id)

    def unseen(self, symbol: Symbol, axes: Axes) -> bool:
        """Whether nothing downstream sees a shift of ``symbol`` that is constant along ``axes``."""
        key = (symbol.id, axes)
        if key not in self._known:
            uses = self.uses(symbol)
            self._known[key] = bool(uses) and all(self.absorbs(record, symbol, axes) for record in uses)
        return self._known[key]

    def absorbs(self, record: Record, symbol: Symbol, axes: Axes) -> bool:
        """Whether such a shift of an input is invisible in, or downstream of, ``record``."""
        if removes_shift(record):
            return roots(record.atoms) == axes and covers(record.inputs[0], axes)
        after = self._passes(record, symbol, axes)
        return after is not None and self.unseen(record.output, after)

    def _passes(self, record: Record, symbol: Symbol, axes: Axes) -> Axes | None:
        """The axes along which the output's shift is constant, or None if it is not."""
        if record.law is Law.SELECT and record.operator == "cat" and not covers(symbol, axes):
            return None
        rename = {old.root(): new.root() for old, new in record.renamed}
        if record.law in (Law.ADD, Law.OFFSET, Law.SELECT):
            after = frozenset(rename.get(axis, axis) for axis in axes)
            return after if covers(record.output, after) else None
        if record.law not in (Law.MULTIPLY, Law.CONTRACT) or len(record.inputs) != 2:
            return None
        first, second = record.inputs
        if first.id == second.id or roots(record.atoms) & axes:
            return None
        if symbol.id == second.id:
            after = frozenset(rename.get(axis, axis) for axis in axes)
            other = roots(first.atoms())
        else:
            after = axes
            other = frozenset(rename.get(axis, axis) for axis in roots(second.atoms()))
        return after if covers(record.output, after) and not other & after else None

    def writers(self, symbol: Symbol, axes: Axes) -> Iterator[tuple[Piece, Axes]]:
        """Pieces whose shift reaches ``symbol`` constant along ``axes``, each with those of the axes it carries."""
        if not self.unseen(symbol, axes):
            return
        piece = self.piece(symbol)
        if piece is not None:
            carried = frozenset(axis for axis in axes if carries(symbol, axis))
            if covers(symbol, carried):
                yield piece, carried
            return
        maker = self.maker(symbol)
        if maker is None:
            return
        rename = {new.root(): old.root() for old, new in maker.renamed}
        for position, source in enumerate(maker.inputs):
            turned = position == 1 or maker.law is Law.SELECT
            before = frozenset(rename.get(a, a) for a in axes) if turned else axes
            if self._passes(maker, source, before) == axes:
                yield from self.writers(source, before)
