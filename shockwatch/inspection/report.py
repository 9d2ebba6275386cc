"""What was found in a training step, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shockwatch.symmetry import Quotient
from shockwatch.symmetry.groups import SymmetryGroup
from shockwatch.symmetry.unexplained import Unexplained

_SHOWN = 3
_CARRIERS = 4


def report(quotient: Quotient, parameters: int, degenerate: Mapping[str, int] | None = None) -> str:
    """The groups found, those refused, the operators without a rule, and the totals.

    Args:
        parameters: the number of trainable ones.
        degenerate: units or blocks without a point of least norm, by group.
    """
    lines = _table(quotient.groups) if quotient.groups else ["no symmetry found"]
    if quotient.rejected:
        lines += [
            "",
            "refused: the graph allows these, the measured loss does not",
            *_table(quotient.rejected),
        ]
    if quotient.blocked:
        lines += ["", "operators without a rule (no symmetry is read through them)"]
        width = max(map(len, quotient.blocked))
        lines += [f"  {name:{width}}  {count:4d} x" for name, count in quotient.blocked.items()]
    if degenerate:
        lines += ["", "dead units or blocks of low rank (the limit of their orbit stands for them)"]
        width = max(map(len, degenerate))
        lines += [f"  {name:{width}}  {count:4d}" for name, count in degenerate.items()]
    lines += [line for note in quotient.notes for line in ("", note)]
    lines += [
        "",
        f"redundant directions: {quotient.dim_exact:,} exact, {quotient.dim:,} with those an eps makes approximate",
        f"share of the {parameters:,} trainable parameters: "
        f"{quotient.dim_exact / parameters:.2%} exact, {quotient.dim / parameters:.2%} in all",
    ]
    if quotient.dim_of_shape:
        lines.append(
            f"of these, rows that no batch of this shape reads, a longer one may: {quotient.dim_of_shape:,}"
        )
    return "\n".join(lines)


def comparison(quotient: Quotient, true: int, named: Unexplained | None = None) -> str:
    """The exact directions against the true number of them.

    Args:
        true: their number by the oracle.
        named: the directions no group explains, where the model was small enough to look.
    """
    exact = quotient.dim_exact
    coverage = f"{exact / true:.4f}" if true else "1.0000" if exact == 0 else "inf"
    lines = [
        f"true number (rank of loss gradients): {true:,}",
        f"coverage (exact / true): {coverage}",
        f"directions no group explains: {max(true - exact, 0):,}",
    ]
    if exact > true:
        lines.append(f"{exact - true:,} more than there are: groups overlap, or one of them is false")
    if named is not None and named.count:
        carriers = ", ".join(f"{name} {share:.0%}" for name, share in list(named.shares.items())[:_CARRIERS])
        lines.append(
            f"  {named.count:,} from narrow inputs or outputs, or an unknown group; carried by {carriers}"
        )
    return "\n".join(lines)


def _table(groups: Sequence[SymmetryGroup]) -> list[str]:
    head = ("kind", "dim", "residual", "group", "parameters", "why")
    rows = [
        (g.kind, f"{g.dim:,}", f"{g.residual:.1e}", g.name, _names(g.parameters), g.evidence) for g in groups
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(_cells(row, widths)).rstrip() for row in (head, *rows)]


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if column in (1, 2) else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
