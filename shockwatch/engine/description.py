"""What inference found, for the log."""

from __future__ import annotations

from collections.abc import Mapping

from shockwatch.symmetry import Quotient


def describe(quotient: Quotient, traced: bool, degenerate: Mapping[str, int]) -> tuple[str, ...]:
    """What inference found, and what is degenerate at the first state, in plain sentences."""
    if not traced:
        return ("no step was traced: raw parameters are watched, without symmetries or curvature.",)
    kinds: dict[str, int] = {}
    for group in quotient.groups:
        kinds[group.kind] = kinds.get(group.kind, 0) + group.dim
    total = sum(kinds.values())
    parts = ", ".join(f"{kind} {dim}" for kind, dim in kinds.items() if dim)
    notes = [f"symmetries: {total} redundant directions ({parts or 'none'})."]
    if quotient.dim_of_shape:
        notes.append(
            f"{quotient.dim_of_shape} of them are rows that no batch of this shape reads; a longer one may."
        )
    if quotient.blocked:
        notes.append(f"operators without a symmetry rule: {', '.join(sorted(quotient.blocked))}.")
    if quotient.rejected:
        refused = ", ".join(f"{g.kind} {g.name} ({g.residual:.1e})" for g in quotient.rejected)
        notes.append(f"groups the measurement refused: {refused}.")
    if degenerate:
        blocks = ", ".join(f"{count} of {name}" for name, count in degenerate.items())
        notes.append(
            f"dead units or blocks of low rank: {blocks}; the limit of their orbit, zero, stands for them."
        )
    return (*notes, *quotient.notes)
