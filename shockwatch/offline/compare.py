"""``shockwatch compare``: are two checkpoints one network, and what relates them?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from shockwatch.inspection.subject import InspectionError, current_directory_importable, load, one_line
from shockwatch.offline.checkpoint import CheckpointError
from shockwatch.offline.element import elements
from shockwatch.offline.reader import CheckpointReader
from shockwatch.snapshot import State
from shockwatch.symmetry import Quotient
from shockwatch.tracing import TraceError, trace_step

# Canonicalisation and alignment of float32 weights agree to about their rounding, amplified by the balancing.
_SAME = {torch.float64: 1e-9, torch.float32: 1e-5}
_SAME_HALF = 1e-2
_WIDEST = 48  # of a group's name in the table


@dataclass(frozen=True)
class GroupRelation:
    """What one group contributes to the difference.

    Attributes:
        element: the group element that takes the first state to the second (for two networks: nearest to it), in
            words; empty for the identity.
        moved: units that change places, and how many there are; None for a continuous group.
    """

    kind: str
    name: str
    element: str
    moved: tuple[int, int] | None


@dataclass(frozen=True)
class Comparison:
    """Two states of one model, side by side.

    Attributes:
        loss: of both, on the batch of the build function.
        raw: Euclidean distance of the parameters as they are.
        quotient: distance modulo every group found, permutations included; aligned.
        norm: of the first, on the quotient.
        tolerance: relative distance up to which the parameters' precision cannot tell two networks apart.
    """

    loss: tuple[float, float]
    raw: float
    quotient: float
    norm: float
    tolerance: float
    relations: tuple[GroupRelation, ...]

    @property
    def same(self) -> bool:
        """Whether a group element takes one to the other."""
        return self.quotient <= self.tolerance * self.norm


def compare(quotient: Quotient, first: State, second: State, loss: tuple[float, float]) -> Comparison:
    """Measure what separates two states, and how each group takes part in it."""
    start = quotient.balance(first)
    matched, order = quotient.match_with_order(quotient.balance(second), start)
    moved: dict[str, tuple[int, int]] = {}
    for group, places in order.moves:
        identity = torch.arange(places.shape[-1])
        moved[group.name] = (int((places.cpu() != identity).sum()), places.numel())
    told = elements(quotient, first, order.apply(dict(second)))
    told |= {name: f"{changed} of {count} units moved" for name, (changed, count) in moved.items() if changed}
    relations = tuple(
        GroupRelation(group.kind, group.name, told.get(group.name, ""), moved.get(group.name))
        for group in quotient.groups
    )
    return Comparison(
        loss,
        quotient.euclidean(first, second),
        quotient.euclidean(start, matched),
        quotient.norm(start),
        _tolerance(first, second, quotient),
        relations,
    )


def _tolerance(first: State, second: State, quotient: Quotient) -> float:
    types = {state[name].dtype for state in (first, second) for name in quotient.names}
    return max(_SAME.get(dtype, _SAME_HALF) for dtype in types)


def main(target: str, first: str, second: str) -> int:
    """Print the comparison of two checkpoints.

    Returns:
        0 if they are one network modulo symmetry, else 1.

    Raises:
        InspectionError: if ``target`` or a checkpoint cannot be used.
    """
    with current_directory_importable():
        try:
            subject = load(target)
            trace = trace_step(subject.model, subject.loss_fn, subject.batch)
            reader = CheckpointReader(subject, trace, precise=False)
            states = reader.state(Path(first)), reader.state(Path(second))
            result = compare(reader.quotient, *states, loss=(reader.loss(states[0]), reader.loss(states[1])))
        except (TraceError, CheckpointError) as error:
            raise InspectionError(str(error)) from error
        except (RuntimeError, ValueError) as error:
            raise InspectionError(one_line(error)) from error
    print(report(result))
    return 0 if result.same else 1


def report(result: Comparison) -> str:
    """The comparison as text."""
    a, b = result.loss
    share = result.quotient / result.norm if result.norm else math.nan
    lines = [
        "one network in two gauges: a symmetry takes one to the other"
        if result.same and result.raw
        else "the same parameters"
        if result.same
        else "two different networks",
        "",
        f"loss on the batch          {a:.9g} and {b:.9g}",
        f"distance of the parameters {result.raw:.6g}",
        f"distance modulo symmetry   {result.quotient:.6g} ({share:.2e} of the norm {result.norm:.6g})",
    ]
    if shown := [r for r in result.relations if r.element]:
        lines += ["", "the element of each group that takes part, from the first to the second"]
        kinds, names = (
            max(map(len, column)) for column in zip(*((r.kind, _short(r.name)) for r in shown), strict=True)
        )
        lines += [f"  {r.kind:{kinds}}  {_short(r.name):{names}}  {r.element}" for r in shown]
    return "\n".join(lines)


def _short(name: str) -> str:
    return name if len(name) <= _WIDEST else f"{name[: _WIDEST - 3]}..."
