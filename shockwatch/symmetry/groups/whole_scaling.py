"""One factor for whole tensors: everything that writes the stream a norm reads, a weight divided by its own norm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from shockwatch.symmetry.charges import Charges, ChargeSystem, Equation, solve, tensors_of
from shockwatch.symmetry.groups.base import SymmetryGroup
from shockwatch.symmetry.groups.general_linear import GeneralLinear
from shockwatch.symmetry.groups.scaling import PositiveScaling, ScaleInvariance, ScalingGroup
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.records import Law, Record

_PASSES = (Law.ADD, Law.SELECT, Law.OFFSET, Law.HOMOGENEOUS)


def equations(record: Record) -> Iterator[Equation]:
    """What ``record`` demands of charges that are the same for every entry of a tensor."""
    x, y = record.inputs, record.output
    if record.law in (Law.CONTRACT, Law.MULTIPLY):
        row: Equation = {y.id: Fraction(1)}
        for t in x:
            row[t.id] = row.get(t.id, Fraction(0)) - 1
        yield {key: value for key, value in row.items() if value}
    elif record.law in _PASSES or record.law is Law.POWER:
        factor = Fraction(record.exponent) if record.law is Law.POWER else Fraction(1)
        for t in x:
            yield {y.id: Fraction(1), t.id: -factor} if t.id != y.id and factor else {y.id: Fraction(1)}
    elif record.law is Law.NORMALIZE:
        yield {y.id: Fraction(1)}
        if record.statistic is not None:
            yield {record.statistic.id: Fraction(1), x[0].id: Fraction(-1)}
    else:
        for t in (*x, y):
            yield {t.id: Fraction(1)}


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Factors for whole tensors that no product of the unit-wise groups already found amounts to."""
    analysis = system.analysis
    rows = [row for record in analysis.records for row in equations(record)]
    rows += [{identity: Fraction(1)} for identity in analysis.fixed]
    pieces = {p.symbol.id: p for p in analysis.pieces}
    trainable = {key for key, piece in pieces.items() if piece.trainable}
    unknowns = dict.fromkeys(pieces)
    for record in analysis.records:
        unknowns.update(dict.fromkeys(s.id for s in tensors_of(record)))
    known = _Span()
    for group in found:
        if isinstance(group, (ScalingGroup, GeneralLinear)):
            members = zip(group.pieces, group.charges, strict=True)
            known.add({p.symbol.id: Fraction(q) for p, q in members if p.trainable})
    # A one-sided factor is the plainer one: mixed ones step back behind it.
    candidates = sorted(solve(rows, list(unknowns), trainable), key=lambda c: _mixed(c, trainable))
    groups: list[SymmetryGroup] = []
    for charges in candidates:
        if known.add({key: value for key, value in charges.items() if key in trainable}):
            groups.append(_group(system, charges, [p for p in analysis.pieces if p.symbol.id in charges]))
    return groups


def _mixed(charges: Charges, trainable: set[int]) -> bool:
    return len({value > 0 for key, value in charges.items() if key in trainable}) > 1


class _Span:
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


def _group(system: ChargeSystem, charges: Charges, pieces: Sequence[Piece]) -> SymmetryGroup:
    values = [float(charges[p.symbol.id]) for p in pieces]
    first = next(q for p, q in zip(pieces, values, strict=True) if p.trainable)
    values = [math.copysign(1.0, first) * q for q in values]
    moved = [(p, q) for p, q in zip(pieces, values, strict=True) if p.trainable]
    sides = [p for p, q in moved if q > 0], [p for p, q in moved if q < 0]
    approximate = any(
        record.law in (Law.OFFSET, Law.NORMALIZE) and any(x.id in charges for x in record.inputs)
        for record in system.analysis.records
    )
    cls = PositiveScaling if sides[1] else ScaleInvariance
    evidence = f"one factor for {len(moved)} tensors that are read through a norm"
    # Rows of norm one, as the unit-wise invariances have them: a norm taken from a state would depend on its gauge.
    rows = sum(math.prod(a.size for a in p.atoms[:-1]) for p, _ in moved)
    return cls(
        block_name(*sides), tuple(pieces), evidence, approximate, charges=tuple(values), reference=float(rows)
    )
