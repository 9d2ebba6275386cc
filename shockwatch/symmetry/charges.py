"""Exponents under which tensors may scale: the null space of what the operators demand.

For one axis ``c``, let every tensor ``t`` that carries ``c`` transform as ``t -> s^(q_t) t`` with one ``s``
for each index of ``c``. Each record is a linear equation on the charges ``q``: a sum wants equal charges,
a product adds them, a contraction over ``c`` wants them to cancel. The solutions are the scaling groups of ``c``,
and with charges of one magnitude the general linear group.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from fractions import Fraction
from weakref import WeakKeyDictionary

from shockwatch.symmetry.analysis import Analysis
from shockwatch.symmetry.axes import Atom, Axis, resolve
from shockwatch.symmetry.records import Law, Record
from shockwatch.symmetry.values import Symbol

Rational = int | Fraction
"""Whole numbers as such: nearly all are, and arithmetic is ten times as fast."""

Equation = dict[int, Rational]
"""``sum of coefficient * charge = 0``, by symbol id."""

Charges = dict[int, Fraction]
"""Nonzero charges by symbol id."""


class Scope(IntEnum):
    """How much an operator must commute with."""

    POSITIVE = 0  # scaling by s > 0
    REAL = 1  # scaling by any s != 0
    LINEAR = 2  # any invertible matrix
    SIGN = 3  # a change of sign


# Classes of atoms of every tensor of an analysis that is done: nothing splits or joins them any more.
_CLASSES: WeakKeyDictionary[Symbol, Counter[Atom]] = WeakKeyDictionary()


def _classes(symbol: Symbol) -> Counter[Atom]:
    known = _CLASSES.get(symbol)
    return Counter(atom.root() for atom in symbol.atoms()) if known is None else known


def carries(symbol: Symbol, axis: Atom) -> int:
    """How often ``symbol`` carries ``axis``."""
    return _classes(symbol)[axis]


def _equation(*terms: tuple[Symbol, float], axis: Atom) -> Equation:
    row: Equation = {}
    for symbol, factor in terms:
        if carries(symbol, axis):
            exact = factor if isinstance(factor, int) else Fraction(factor)
            row[symbol.id] = row.get(symbol.id, 0) + exact
    return {key: value for key, value in row.items() if value}


def _zero(symbols: Iterable[Symbol], axis: Atom) -> Iterator[Equation]:
    for symbol in symbols:
        yield _equation((symbol, 1), axis=axis)


def _within(axis: Atom, atoms: Axis) -> bool:
    return any(atom.root() is axis for atom in resolve(atoms))


def equations(record: Record, axis: Atom, scope: Scope) -> Iterator[Equation]:
    """What ``record`` demands of the charges on ``axis``."""
    x, y, law = record.inputs, record.output, record.law
    tensors = (*x, y)
    if any(carries(t, axis) > 1 for t in tensors):
        yield from _zero(tensors, axis)
        return
    both = len(x) == 2 and carries(x[0], axis) and carries(x[1], axis)
    summed = law is Law.CONTRACT and _within(axis, record.atoms)
    if law is Law.CONTRACT or law is Law.MULTIPLY:
        one_sided_sum = summed and not both
        entrywise = both and not summed and scope is Scope.LINEAR
        if one_sided_sum or entrywise:
            yield from _zero(tensors, axis)
        else:
            yield _equation((y, 1), *((t, -1) for t in x), axis=axis)
    elif law is Law.ADD:
        alone = any(not carries(t, axis) for t in x)
        for t in x:
            yield _equation((y, 1), (t, -1), axis=axis)
        if alone:
            yield from _zero(tensors, axis)
    elif law is Law.SELECT:
        for t in x:
            if carries(t, axis) and carries(y, axis):
                yield _equation((y, 1), (t, -1), axis=axis)
            else:
                yield from _zero((t, y), axis)
    elif law is Law.OFFSET and scope is Scope.POSITIVE:
        yield _equation((y, 1), (x[0], -1), axis=axis)
    elif law is Law.POWER and scope is not Scope.LINEAR:
        whole = record.exponent == int(record.exponent)
        if scope is Scope.POSITIVE or whole:
            yield _equation((y, 1), (x[0], -record.exponent), axis=axis)
        else:
            yield from _zero(tensors, axis)
    elif law is Law.ODD and scope is Scope.SIGN:
        yield _equation((y, 1), (x[0], -1), axis=axis)
    elif law is Law.HOMOGENEOUS and scope is Scope.POSITIVE:
        for t in x:
            yield _equation((y, 1), (t, -1), axis=axis)
        if any(not carries(t, axis) for t in x):
            yield from _zero(tensors, axis)
    elif law is Law.NORMALIZE and scope is Scope.POSITIVE and not _within(axis, record.atoms):
        assert record.statistic is not None
        yield from _zero((y,), axis)
        yield _equation((record.statistic, 1), (x[0], -1), axis=axis)
    else:
        yield from _zero(tensors, axis)


def tensors_of(record: Record) -> tuple[Symbol, ...]:
    """Every tensor a record speaks of."""
    extra = () if record.statistic is None else (record.statistic,)
    return (*record.inputs, record.output, *extra)


def solve(rows: Iterable[Equation], unknowns: Sequence[int], preferred: set[int]) -> list[Charges]:
    """A basis of the solutions, one for each free unknown; free unknowns are taken from ``preferred``.

    Exact Gaussian elimination on sparse rows: they have two or three terms each.
    """
    solved: dict[int, Equation] = {}
    users: dict[int, set[int]] = {}
    for row in rows:
        reduced: Equation = {}
        for key, value in row.items():
            for other, weight in solved.get(key, {key: 1}).items():
                reduced[other] = reduced.get(other, 0) + value * weight
        reduced = {key: value for key, value in reduced.items() if value}
        if not reduced:
            continue
        pivot = min(reduced, key=lambda k: (k in preferred, k))
        lead = reduced.pop(pivot)
        expression = {key: _ratio(-value, lead) for key, value in reduced.items()}
        for dependent in users.pop(pivot, set()):
            target = solved[dependent]
            if pivot not in target:
                continue
            weight = target.pop(pivot)
            for key, value in expression.items():
                total = target.get(key, 0) + weight * value
                if total:
                    target[key] = total
                    users.setdefault(key, set()).add(dependent)
                else:
                    target.pop(key, None)
        solved[pivot] = expression
        for key in expression:
            users.setdefault(key, set()).add(pivot)
    basis = []
    for free in (u for u in unknowns if u not in solved):
        charges: Equation = {free: 1}
        for key, expression in solved.items():
            if expression.get(free):
                charges[key] = expression[free]
        basis.append(_whole(charges))
    return basis


def _ratio(value: Rational, by: Rational) -> Rational:
    ratio = value * by if by in (1, -1) else Fraction(value) / by
    return ratio.numerator if ratio.denominator == 1 else ratio


def _whole(charges: Equation) -> Charges:
    """The same direction in the smallest whole numbers: a sign then goes with the odd ones."""
    denominator = math.lcm(*(value.denominator for value in charges.values()))
    common = math.gcd(*(int(value * denominator) for value in charges.values()))
    return {key: Fraction(value * denominator) / common for key, value in charges.items()}


class Span:
    """The span of charge vectors, in echelon form."""

    def __init__(self) -> None:
        self._rows: dict[int, Charges] = {}

    def add(self, vector: Charges) -> bool:
        """Whether ``vector`` was outside the span, which then contains it."""
        vector = {key: value for key, value in vector.items() if value}
        while vector:
            pivot = min(vector)
            row = self._rows.get(pivot)
            if row is None:
                self._rows[pivot] = vector
                return True
            weight = vector[pivot] / row[pivot]
            for key, value in row.items():
                vector[key] = vector.get(key, Fraction(0)) - weight * value
            vector = {key: value for key, value in vector.items() if value}
        return False


class ChargeSystem:
    """The charge equations of an analysis, axis by axis."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self._by_axis: dict[Atom, list[Record]] = {}
        self._known: dict[tuple[Atom, Scope], list[Equation]] = {}
        # Views of one tensor share its id and its atoms: one of them stands for all.
        self._symbols: dict[int, Symbol] = {}
        for record in analysis.records:
            roots: set[Atom] = set()
            for symbol in tensors_of(record):
                self._symbols.setdefault(symbol.id, symbol)
                roots |= _CLASSES.setdefault(symbol, _classes(symbol)).keys()
            for root in roots:
                self._by_axis.setdefault(root, []).append(record)
        for piece in analysis.pieces:
            self._symbols.setdefault(piece.symbol.id, piece.symbol)
            _CLASSES.setdefault(piece.symbol, _classes(piece.symbol))
        self._trainable = {p.symbol.id for p in analysis.pieces if p.trainable}

    def records(self, axis: Atom) -> list[Record]:
        """The records that touch ``axis``."""
        return self._by_axis.get(axis, [])

    def _rows(self, axis: Atom, scope: Scope) -> list[Equation]:
        key = (axis, scope)
        if key not in self._known:
            rows = [row for record in self.records(axis) for row in equations(record, axis, scope)]
            rows += [{identity: 1} for identity in self.analysis.fixed]
            self._known[key] = rows
        return self._known[key]

    def basis(self, axis: Atom, scope: Scope) -> list[Charges]:
        """Independent charge assignments on ``axis`` that move at least one trainable piece."""
        unknowns = dict.fromkeys(p.symbol.id for p in self.analysis.pieces if carries(p.symbol, axis))
        for record in self.records(axis):
            unknowns.update(dict.fromkeys(s.id for s in tensors_of(record) if carries(s, axis)))
        found = solve(self._rows(axis, scope), list(unknowns), self._trainable)
        return [charges for charges in found if any(key in self._trainable for key in charges)]

    def allows(self, axis: Atom, scope: Scope, charges: Charges) -> bool:
        """Whether ``charges`` solve the stricter equations of ``scope``."""
        return all(
            sum(value * charges[key] for key, value in row.items() if key in charges) == 0
            for row in self._rows(axis, scope)
        )

    def shared_axes(self, charges: Charges) -> list[Atom]:
        """The axes that every charged tensor carries: the group may differ from index to index along them."""
        common: dict[Atom, None] | None = None
        for identity in charges:
            if identity in self._symbols:
                roots = dict.fromkeys(_classes(self._symbols[identity]))
                common = roots if common is None else {a: None for a in common if a in roots}
        return list(common or {})

    def approximate(self, axis: Atom, charges: Charges) -> bool:
        """Whether an eps stands in the way of exact invariance."""
        return any(
            record.law in (Law.OFFSET, Law.NORMALIZE) and any(x.id in charges for x in record.inputs)
            for record in self.records(axis)
        )

    def touches_fixed(self, axis: Atom) -> bool:
        """Whether a frozen tensor carries ``axis``."""
        return any(
            identity in self._symbols and carries(self._symbols[identity], axis)
            for identity in self.analysis.fixed
        )

    def axes_beside(self, axis: Atom) -> list[Atom]:
        """The axes that stand beside ``axis`` on every tensor that carries it."""
        carriers: Charges = {s.id: Fraction(1) for s in self._symbols.values() if carries(s, axis)}
        return [atom for atom in self.shared_axes(carriers) if atom is not axis]

    def path(self, axis: Atom, charges: Charges) -> str:
        """The operators between the charged pieces, for a person."""
        names = [
            record.operator
            for record in self.records(axis)
            if record.law not in (Law.CONTRACT, Law.ADD, Law.FIX)
            and record.operator != "running statistics"
            and (record.output.id in charges or any(x.id in charges for x in record.inputs))
        ]
        return ", ".join(dict.fromkeys(names)) or "linear maps"
