"""One factor for whole tensors: everything that writes the stream a norm reads, a weight divided by its own norm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog

from shockwatch.symmetry.charges import Charges, ChargeSystem, Equation, Span, solve, tensors_of
from shockwatch.symmetry.groups.base import SymmetryGroup
from shockwatch.symmetry.groups.general_linear import GeneralLinear
from shockwatch.symmetry.groups.scaling import PositiveScaling, ScaleInvariance, ScalingGroup
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.records import Law, Record

_LARGEST_DENOMINATOR = 64
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
    known = Span()
    unit_wise: list[Charges] = []
    for group in found:
        if isinstance(group, (ScalingGroup, GeneralLinear)):
            members = zip(group.pieces, group.charges, strict=True)
            unit_wise.append({p.symbol.id: Fraction(q) for p, q in members})
            known.add({key: q for key, q in unit_wise[-1].items() if key in trainable})
    # A one-sided factor is the plainer one: mixed ones step back behind it.
    candidates = sorted(solve(rows, list(unknowns), trainable), key=lambda c: _mixed(c, trainable))
    new = [c for c in candidates if known.add({key: q for key, q in c.items() if key in trainable})]
    groups: list[SymmetryGroup] = []
    for k, charges in enumerate(new):
        chosen = _one_sided(charges, [*new[:k], *new[k + 1 :], *unit_wise], trainable)
        # What came out one-sided stands in for what it was made of.
        new[k] = chosen
        groups.append(_group(system, chosen, [p for p in analysis.pieces if p.symbol.id in chosen]))
    return groups


def _one_sided(charges: Charges, others: Sequence[Charges], trainable: set[int]) -> Charges:
    """``charges`` plus a combination of ``others`` with no negative charge on a trainable piece, if there is one.

    Along such a direction the norm falls to zero without end. It must be a group by itself, which a fixed norm slices:
    mixed with other groups it would have no least norm, and balancing would not stop.
    """
    if not _mixed(charges, trainable):
        return charges
    keys = sorted({key for vector in (charges, *others) for key in vector})
    own = [k for k, key in enumerate(keys) if key in trainable]
    start, basis = (
        np.array([[float(v.get(key, 0)) for key in keys] for v in vectors])
        for vectors in ([charges], list(others) or [{}])
    )
    for sign in (1.0, -1.0):
        # least sum of charges, so that few pieces take part
        answer = linprog(
            basis[:, own].sum(1), A_ub=-basis[:, own].T, b_ub=sign * start[0, own], bounds=(None, None)
        )
        if answer.status == 0:
            weights = [Fraction(float(x)).limit_denominator(_LARGEST_DENOMINATOR) for x in answer.x]
            total = {key: Fraction(int(sign)) * value for key, value in charges.items()}
            for weight, vector in zip(weights, others, strict=False):
                for key, value in vector.items():
                    total[key] = total.get(key, Fraction(0)) + weight * value
            total = {key: value for key, value in total.items() if value}
            if not _mixed(total, trainable):
                return total
    return charges


def _mixed(charges: Charges, trainable: set[int]) -> bool:
    return len({value > 0 for key, value in charges.items() if key in trainable}) > 1


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
