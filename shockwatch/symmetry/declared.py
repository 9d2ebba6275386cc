"""Groups declared by hand, for kernels the analysis cannot read; they are measured like every other group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shockwatch.errors import require_choice, require_positive_int
from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom, Axis
from shockwatch.symmetry.groups import (
    ContinuousGroup,
    GeneralLinear,
    Permutation,
    PositiveScaling,
    RealScaling,
    ScaleInvariance,
    ScalingGroup,
    SignFlip,
    SymmetryGroup,
    Translation,
)
from shockwatch.symmetry.groups.declared import DeclaredGroup
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.packing import Layout
from shockwatch.symmetry.pieces import Narrow, Piece, Step
from shockwatch.symmetry.projection import HorizontalProjector
from shockwatch.symmetry.values import Symbol

_SCALINGS: dict[str, type[ScalingGroup]] = {
    kind.kind: kind for kind in (PositiveScaling, RealScaling, ScaleInvariance)
}
KINDS = (*_SCALINGS, GeneralLinear.kind, SignFlip.kind, Permutation.kind, Translation.kind)

# Squared cosine of an angle between spans that counts as zero angle; at a generic point others stay well below.
_INSIDE = 1e-6
_ROUNDS = 300
_SETTLED = 1e-9


@dataclass(frozen=True)
class Side:
    """The axis of one parameter on which a declared group acts.

    Args:
        parameter: its name in ``model.named_parameters()``.
        axis: the dimension whose indices are the units.
        power: exponent of the unit's factor: +1 for the rows that write a unit, -1 for the columns that read it.
            Only scalings and general linear groups have one.
        rows: ``(start, stop)`` along ``axis``, where the parameter is packed (query, key, value); default: all.
    """

    parameter: str
    axis: int = 0
    power: float = 1.0
    rows: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.parameter, str) or not self.parameter:
            raise ValueError(f"parameter={self.parameter!r}: must be the name of a parameter")
        if isinstance(self.axis, bool) or not isinstance(self.axis, int) or self.axis < 0:
            raise ValueError(f"axis={self.axis!r}: must be an integer >= 0")
        number = isinstance(self.power, (int, float)) and not isinstance(self.power, bool)
        if not number or not math.isfinite(self.power) or self.power == 0:
            raise ValueError(f"power={self.power!r}: must be a finite number other than 0")
        if self.rows is not None and not (
            isinstance(self.rows, tuple)
            and len(self.rows) == 2
            and all(isinstance(r, int) for r in self.rows)
            and 0 <= self.rows[0] < self.rows[1]
        ):
            raise ValueError(f"rows={self.rows!r}: must be (start, stop) with 0 <= start < stop, or None")


@dataclass(frozen=True)
class Declared:
    """A symmetry group stated by hand: ``infer_symmetries(model, loss_fn, batch, declared=[...])``.

    ::

        Declared("positive scaling", [Side("up.weight"), Side("up.bias"), Side("down.weight", axis=1, power=-1)])
        Declared("general linear", [Side("qkv.weight", rows=(0, 64)), Side("qkv.weight", power=-1, rows=(64, 128))],
                 blocks=4)

    The measurement decides: a declaration that moves the loss is refused with a warning that names its residual.

    Args:
        kind: one of ``KINDS``.
        sides: where it acts; all of one length along their axes.
        blocks: consecutive blocks of equal size along those axes, each with its own matrix or order (heads).

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """

    kind: str
    sides: Sequence[Side]
    blocks: int = 1

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, KINDS)
        require_positive_int("blocks", self.blocks)
        sides = tuple(self.sides) if isinstance(self.sides, (list, tuple)) else ()
        if not sides or not all(isinstance(side, Side) for side in sides):
            raise ValueError(f"sides={self.sides!r}: must be a non-empty list of Side")
        object.__setattr__(self, "sides", sides)
        powers = {float(side.power) for side in sides}
        if self.kind == GeneralLinear.kind and powers != {1.0, -1.0}:
            raise ValueError(
                f"power={sorted(powers)}: a general linear group needs sides of +1 and of -1, no others"
            )
        if self.kind == RealScaling.kind and any(p != round(p) for p in powers):
            raise ValueError(f"power={sorted(powers)}: must be whole numbers, a sign has no other powers")
        if self.kind == ScaleInvariance.kind and len({p > 0 for p in powers}) == 2:
            raise ValueError(f"power={sorted(powers)}: scale invariance has powers of one sign")
        if self.kind == Translation.kind and (len(sides) != 1 or self.blocks != 1):
            raise ValueError(
                f"sides={len(sides)}, blocks={self.blocks}: a translation takes one side and no blocks"
            )
        if self.blocks > 1 and self.kind not in (GeneralLinear.kind, Permutation.kind):
            raise ValueError(f"blocks={self.blocks}: only general linear groups and permutations have blocks")

    @property
    def name(self) -> str:
        """The parameters, as in a tag."""
        return "-".join(dict.fromkeys(side.parameter for side in self.sides))

    def build(self, parameters: Mapping[str, Tensor]) -> SymmetryGroup:
        """The group on these trainable parameters.

        Raises:
            ValueError: if a name, an axis, a range or a length does not fit them.
        """
        sizes = {}
        for side in self.sides:
            sizes[side] = _length(side, parameters)
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{side.parameter} axis {side.axis}: {n}" for side, n in sizes.items())
            raise ValueError(f"sides of {self.kind}={listed}: must be of one length")
        size = next(iter(sizes.values()))
        if size % self.blocks:
            raise ValueError(f"blocks={self.blocks}: must divide the length of the axis, {size}")
        lead = (Atom(self.blocks),) if self.blocks > 1 else ()
        unit = Atom(size // self.blocks)
        pieces = tuple(_piece(side, parameters[side.parameter], (*lead, unit)) for side in self.sides)
        return self._group(pieces, unit, lead)

    def _group(self, pieces: tuple[Piece, ...], unit: Atom, lead: tuple[Atom, ...]) -> SymmetryGroup:
        charges = tuple(float(side.power) for side in self.sides)
        sides = [[p for p, q in zip(pieces, charges, strict=True) if q * sign > 0] for sign in (1, -1)]
        name, why = block_name(*sides), "declared"
        if self.kind == Permutation.kind:
            return Permutation(block_name(pieces), pieces, why, axis=unit, batch=lead)
        if self.kind == SignFlip.kind:
            return SignFlip(name, pieces, why, units=(unit,))
        inner: ContinuousGroup
        if self.kind == Translation.kind:
            inner = Translation(name, pieces, why, along=(pieces[0].positions(unit)[0],))
        elif self.kind == GeneralLinear.kind:
            inner = GeneralLinear(name, pieces, why, charges=charges, axis=unit, batch=lead)
        else:
            eps = self.kind == ScaleInvariance.kind
            inner = _SCALINGS[self.kind](name, pieces, why, eps, charges=charges, units=(unit,))
        return DeclaredGroup(inner)


def _length(side: Side, parameters: Mapping[str, Tensor]) -> int:
    if side.parameter not in parameters:
        known = ", ".join(list(parameters)[:8])
        raise ValueError(
            f"parameter={side.parameter!r}: must be a trainable parameter of the model ({known}, ...)"
        )
    shape = tuple(parameters[side.parameter].shape)
    if side.axis >= len(shape):
        raise ValueError(f"axis={side.axis}: {side.parameter} has shape {shape}, must be below {len(shape)}")
    start, stop = side.rows or (0, shape[side.axis])
    if stop > shape[side.axis]:
        raise ValueError(f"rows={side.rows}: axis {side.axis} of {side.parameter} ends at {shape[side.axis]}")
    return stop - start


def _piece(side: Side, tensor: Tensor, axis: Axis) -> Piece:
    dims: list[Axis] = [(Atom(size),) for size in tensor.shape]
    dims[side.axis] = axis
    steps: tuple[Step, ...] = ()
    if side.rows is not None:
        start, length = side.rows[0], side.rows[1] - side.rows[0]
        steps = (Narrow(side.axis, start, length, start // length),)
    return Piece(side.parameter, True, Symbol(tuple(dims)), steps)


def span_angle(
    group: ContinuousGroup, others: Sequence[ContinuousGroup], point: State
) -> tuple[float, float]:
    """How the directions of ``group`` lie to those of ``others`` at a generic ``point``.

    Returns:
        Squared cosine of a random direction of ``group`` with the span of ``others`` (1: it lies inside), and that of
        the smallest angle between both spans (1: they share a direction), by power iteration.
    """
    names = list(dict.fromkeys(n for g in (group, *others) for n in g.parameters))
    layout = Layout(names, (), {})
    state = layout.pack({name: point[name] for name in names})
    generator = torch.Generator().manual_seed(0)
    mine = HorizontalProjector([[group]], layout, state)
    theirs = HorizontalProjector([list(others)], layout, state)

    def inside(projector: HorizontalProjector, tangent: State) -> State:
        flat = projector(tangent)
        return {name: tangent[name] - flat[name] for name in names}

    def square(tangent: State) -> float:
        return float(sum(tensor.square().sum() for tensor in tangent.values()))

    start = {
        n: torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device) for n, t in state.items()
    }
    vector = inside(mine, start)
    random = square(inside(theirs, vector)) / square(vector)
    largest, before = random, -1.0
    for _ in range(_ROUNDS):
        vector = inside(mine, inside(theirs, vector))
        size = math.sqrt(square(vector))
        if size < 1e-12:
            return random, 0.0
        vector = {name: tensor / size for name, tensor in vector.items()}
        largest = square(inside(theirs, vector))
        if abs(largest - before) < _SETTLED:
            break
        before = largest
    return random, largest


def reconcile(
    group: SymmetryGroup, found: Sequence[SymmetryGroup], point: State
) -> tuple[list[SymmetryGroup], str | None]:
    """Found groups that a verified declared ``group`` makes superfluous, and why it may not be added, if so.

    No direction may be counted twice. A declaration inside what is known already adds nothing; a found group inside
    the declared one gives way to it; a partial overlap is refused.
    """
    if not isinstance(group, ContinuousGroup):
        same = [g for g in found if g.kind == group.kind and set(g.parameters) == set(group.parameters)]
        return [], f"is {same[0].name} already" if same else None
    names = set(group.parameters)
    near = [g for g in found if isinstance(g, ContinuousGroup) and names & set(g.parameters)]
    if not near:
        return [], None
    random, _ = span_angle(group, near, point)
    if random > 1 - _INSIDE:
        return [], f"lies inside {', '.join(g.name for g in near)} already"
    swallowed = [g for g in near if span_angle(g, [group], point)[0] > 1 - _INSIDE]
    rest = [g for g in near if g not in swallowed]
    if rest and span_angle(group, rest, point)[1] > 1 - _INSIDE:
        return [], f"overlaps in part with {', '.join(g.name for g in rest)}: declare only what is missing"
    return list(swallowed), None
