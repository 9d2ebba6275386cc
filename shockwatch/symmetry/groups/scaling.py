"""Scalings of single units: positive (ReLU), real (gated products), and of weights read through a norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.charges import ChargeSystem, Scope, Span
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup, frame, units_last
from shockwatch.symmetry.groups.general_linear import GeneralLinear
from shockwatch.symmetry.groups.rotation import Rotation
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece

_NEWTON_STEPS = 60


@dataclass(eq=False)
class ScalingGroup(ContinuousGroup):
    """``piece -> s^charge piece`` with one factor ``s`` for each unit (theory.md 1).

    Canonical form: the minimum of ``sum_k n_k s^(2 charge_k)`` with ``n_k`` the squared norm of piece ``k`` at the
    unit; for charges of one magnitude ``s = (|out| / |in|)^(1/2)``. A unit that is zero on one side has no minimum,
    only a limit, where both sides are zero. Where all charges have one sign there is no minimum either, and the slice
    is a fixed norm.

    Attributes:
        charges: exponent of each piece.
        units: the axes whose indices scale independently; none: one factor for whole tensors.
        reference: squared norm of each unit on the slice where all charges have one sign.
    """

    kind: ClassVar[str] = "positive scaling"
    can_stack: ClassVar[bool] = True
    with_sign: ClassVar[bool] = False

    charges: tuple[float, ...] = ()
    units: tuple[Atom, ...] = ()
    reference: float = 1.0

    @property
    def dim(self) -> int:
        return math.prod(atom.size for atom in self.units)

    def members(self) -> Iterator[tuple[Piece, float]]:
        """Trainable pieces with their charges."""
        return ((p, q) for p, q in zip(self.pieces, self.charges, strict=True) if p.trainable)

    def _per_unit(self, piece: Piece, tensor: Tensor) -> Tensor:
        moved = units_last(piece, tensor, self.units)
        return (
            moved.sum(tuple(range(moved.dim() - len(self.units)))) if moved.dim() > len(self.units) else moved
        )

    def _norms(self, state: State) -> list[tuple[float, Tensor]]:
        # sums of positive terms keep their precision: only the result is widened
        return [
            (charge, self._per_unit(piece, piece.view(state).square()).double())
            for piece, charge in self.members()
        ]

    def scale_(self, state: State, logarithm: Tensor, sign: Tensor | None = None) -> None:
        """Apply ``s = exp(logarithm)``, times ``sign``, in place."""
        for piece, charge in zip(self.pieces, self.charges, strict=True):
            if piece.name not in state:
                continue
            view = piece.view(state)
            factor = torch.exp(charge * logarithm)
            if sign is not None and round(charge) % 2:
                factor = factor * sign
            units_last(piece, view, self.units).mul_(factor.to(view.dtype))

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        shape = [atom.size for atom in self.units]
        device = self.pieces[0].view(state).device
        draw = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        largest = max(abs(charge) for charge in self.charges)
        sign = None
        if self.with_sign:
            coin = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
            sign = torch.where(coin < 0.5, -1.0, 1.0).to(device)
        self.scale_(state, scale / largest * draw.to(device), sign)

    def balancing_log(self, norms: list[tuple[float, Tensor]]) -> Tensor:
        """Logarithm of the scales that bring pieces with these charges and squared norms to the canonical form."""
        growing = sum((n for q, n in norms if q > 0), torch.zeros((), dtype=torch.float64))
        falling = sum((n for q, n in norms if q < 0), torch.zeros((), dtype=torch.float64))
        magnitudes = {abs(q) for q, _ in norms}
        one_sided = not any(q > 0 for q, _ in norms) or not any(q < 0 for q, _ in norms)
        if len(magnitudes) == 1:
            q = magnitudes.pop()
            if one_sided:
                logarithm = torch.log(self.reference / (growing + falling)) / 2
            else:
                logarithm = torch.log(falling / growing) / 4
            logarithm = logarithm / (math.copysign(q, norms[0][0]) if one_sided else q)
        else:
            logarithm = self._newton(norms, one_sided)
        # A unit that is zero stays where it is.
        return torch.where(torch.isfinite(logarithm), logarithm, torch.zeros_like(logarithm))

    def _newton(self, norms: list[tuple[float, Tensor]], one_sided: bool) -> Tensor:
        """Root of ``sum q n e^(2 q t)`` (of ``sum n e^(2 q t) - reference`` if one-sided), convex in ``t``."""
        t = torch.zeros_like(norms[0][1])
        for _ in range(_NEWTON_STEPS):
            terms = [(q, n * torch.exp(2 * q * t)) for q, n in norms]
            if one_sided:
                total = sum((n for _, n in terms), torch.zeros_like(t))
                slope = sum((2 * q * n for q, n in terms), torch.zeros_like(t))
                step = total * torch.log(total / self.reference) / slope
            else:
                gradient = sum((q * n for q, n in terms), torch.zeros_like(t))
                curvature = sum((2 * q * q * n for q, n in terms), torch.zeros_like(t))
                step = (gradient / curvature).clamp(-1.0, 1.0)
            t = t - step
            if not torch.isfinite(step).any() or step[torch.isfinite(step)].abs().max() < 1e-15:
                break
        return t

    def dead(self, norms: list[tuple[float, Tensor]]) -> tuple[Tensor, Tensor]:
        """Units that are zero on some side, and those of them that are not zero altogether."""
        sides = [[n for q, n in norms if sign * q > 0] for sign in (1.0, -1.0)]
        alive = [torch.stack(side).sum(0) > 0 for side in sides if side]
        return ~torch.stack(alive).all(0), torch.stack(alive).any(0) & ~torch.stack(alive).all(0)

    def degenerate(self, state: State) -> int:
        return int(self.dead(self._norms(state))[0].sum())

    def extinguish_(self, state: State, norms: list[tuple[float, Tensor]]) -> bool:
        """Move units that are zero on one side to the limit of their orbit, zero, in place; whether there were any."""
        half = self.dead(norms)[1]
        if not bool(half.any()):
            return False
        for piece, _ in self.members():
            units_last(piece, piece.view(state), self.units).masked_fill_(half, 0.0)
        return True

    def canonicalize_(self, state: State) -> float:
        norms = self._norms(state)
        if self.extinguish_(state, norms):
            norms = self._norms(state)
        logarithm = self.balancing_log(norms)
        self.scale_(state, logarithm)
        return float(logarithm.abs().max()) if logarithm.numel() else 0.0

    def imbalance(self, state: State) -> Tensor:
        return self._by_layer(self.balancing_log(self._norms(state)))

    def between(self, before: State, after: State) -> Tensor:
        """The factor of each unit, with its sign, that takes ``before`` to ``after``; 1 where the unit is zero."""
        factor = torch.full([atom.size for atom in self.units], math.nan, dtype=torch.float64)
        sign = torch.ones_like(factor)
        for piece, charge in self.members():
            old, new = piece.view(before).double(), piece.view(after).double()
            sizes = [self._per_unit(piece, t.square()).cpu() for t in (old, new)]
            factor = torch.where(factor.isnan(), (sizes[1] / sizes[0]).pow(0.5 / charge), factor)
            if self.with_sign and round(charge) % 2:
                sign = torch.where(self._per_unit(piece, old * new).cpu() < 0, -1.0, sign)
        return sign * torch.where(torch.isfinite(factor) & (factor > 0), factor, 1.0)

    def stacked(self, layer: Atom) -> ScalingGroup:
        return dataclasses.replace(self, units=(layer, *self.units))

    def parts(self) -> list[tuple[Any, ...]]:
        return [(q, p, self.units) for p, q in zip(self.pieces, self.charges, strict=True)]

    def pooled(self, parts: Sequence[tuple[Any, ...]]) -> ScalingGroup:
        charges, pieces = tuple(q for q, *_ in parts), tuple(p for _, p, _ in parts)
        return dataclasses.replace(self, pieces=pieces, charges=charges)

    def _flip_(self, state: State, overlap: Tensor) -> None:
        sign = torch.where(overlap < 0, -1.0, 1.0)
        self.scale_(state, torch.zeros_like(overlap), sign)

    def frame_piece(self) -> Piece:
        """The piece whose sign is fixed: the smallest, which the fewest other groups touch."""
        odd = [piece for piece, charge in self.members() if round(charge) % 2]
        return min(odd, key=lambda piece: len(piece.atoms))

    @property
    def frame_order(self) -> int:
        return len(self.frame_piece().atoms) if self.with_sign else 0

    def fix_frame_(self, state: State) -> Tensor | None:
        if self.with_sign:
            piece = self.frame_piece()
            view = piece.view(state).double()
            self._flip_(state, self._per_unit(piece, view * frame(view.shape, view)))
        return None

    @property
    def has_frame(self) -> bool:
        return self.with_sign or type(self).align_ is not ScalingGroup.align_

    @property
    def only_scales(self) -> bool:
        """Whether the generators are those of this class: a subclass may turn phases too."""
        return type(self).generate_ is ScalingGroup.generate_

    def align_(self, state: State, reference: State) -> Tensor | None:
        if self.with_sign:
            overlaps = [
                self._per_unit(p, p.view(state).double() * p.view(reference).double())
                for p, q in self.members()
                if round(q) % 2
            ]
            self._flip_(state, torch.stack(overlaps).sum(0))
        return None

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        for piece, charge in self.members():
            step = units_last(piece, piece.view(state), self.units) * (charge * coefficients)
            units_last(piece, piece.view(tangent), self.units).add_(step)

    def adjoint(self, state: State, tangent: State) -> Tensor:
        parts = [
            charge * self._per_unit(piece, piece.view(state) * piece.view(tangent))
            for piece, charge in self.members()
        ]
        return torch.stack(parts).sum(0)

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        gram = sum((q * q * n for q, n in self._norms(state)), torch.zeros((), dtype=torch.float64))
        inverse = torch.where(gram > 0, 1.0 / gram, torch.zeros_like(gram))
        return coefficients * inverse.to(coefficients.dtype)


@dataclass(eq=False)
class PositiveScaling(ScalingGroup):
    """R_+ for each unit between linear maps through a positively homogeneous path."""


@dataclass(eq=False)
class RealScaling(ScalingGroup):
    """R* for each unit that enters only linearly: up-projections of gated units, norm gains against columns."""

    kind: ClassVar[str] = "real scaling"
    with_sign: ClassVar[bool] = True


@dataclass(eq=False)
class FoldedGain(RealScaling):
    """A norm's gain against the columns that read it, where the stream before the norm may turn.

    Canonical form: all gains of one size ``c``, so that rotations of the stream are isometries; ``c`` minimises
    ``sum_i c^2 (1 + b_i^2 / g_i^2) + n_i g_i^2 / c^2`` (biases ``b``, squared norms ``n`` of the readers' columns).

    Attributes:
        gain: the gain's piece.
    """

    gain: Piece | None = None

    def frame_piece(self) -> Piece:
        assert self.gain is not None
        return self.gain

    def balancing_log(self, norms: list[tuple[float, Tensor]]) -> Tensor:
        members = list(self.members())
        charge = next(q for p, q in members if p is self.gain)
        beside = [p for p, q in members if q == charge]
        own = [n for q, n in norms if q == charge]
        gain = own.pop(beside.index(self.frame_piece()))
        alive = gain > 0
        square = torch.where(alive, gain, torch.ones_like(gain))
        readers = sum((n for q, n in norms if q != charge), torch.zeros_like(gain))
        biases = sum(own, torch.zeros_like(gain))
        logs = torch.log(square) / 2

        def total(values: Tensor) -> Tensor:
            """Over the gain, one for each layer."""
            sums = torch.where(alive, values, 0.0).reshape(self.layers, -1).sum(1)
            return sums.reshape(self.layers, *(1,) * (gain.dim() - 1))

        size = torch.log(total(readers * square) / total(1 + biases / square)) / 4
        # Readers that are all zero say nothing about the size: it stays.
        size = torch.where(torch.isfinite(size), size, total(logs) / total(torch.ones_like(logs)))
        return torch.where(alive & torch.isfinite(logs), charge * (size - logs), torch.zeros_like(logs))

    @property
    def least_norm(self) -> bool:
        return False

    def extinguish_(self, state: State, norms: list[tuple[float, Tensor]]) -> bool:
        # The gains have one size, dead ones stay: nothing here is the limit of anything.
        return False

    def align_(self, state: State, reference: State) -> Tensor | None:
        piece = self.frame_piece()
        self._flip_(state, self._per_unit(piece, piece.view(state).double() * piece.view(reference).double()))
        return None


@dataclass(eq=False)
class ScaleInvariance(ScalingGroup):
    """R_+ for each group of weights that is read only through a norm; its slice is unit norm."""

    kind: ClassVar[str] = "scale invariance"

    @property
    def least_norm(self) -> bool:
        return False


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Every scaling group of the step that no general linear group contains."""
    groups: list[SymmetryGroup] = []
    folded = {p.symbol.id for g in found if isinstance(g, Rotation) for p in g.gains}
    candidates = [
        (axis, solution, tuple(system.shared_axes(solution)))
        for axis in system.analysis.axes()
        for solution in system.basis(axis, Scope.POSITIVE)
    ]
    # Finest first: a factor for each group of channels may be made of factors for each channel.
    for axis, solution, units in sorted(candidates, key=lambda candidate: -len(candidate[2])):
        members = [
            (p, float(solution[p.symbol.id])) for p in system.analysis.pieces if p.symbol.id in solution
        ]
        first = members[0][1]
        members = [(p, math.copysign(1.0, first) * q) for p, q in members]
        if _inside_linear(members, units, found) or _made_of(members, units, groups):
            continue
        pieces, charges = tuple(p for p, _ in members), tuple(q for _, q in members)
        moved = {q > 0 for p, q in members if p.trainable}
        if len(moved) == 1:
            cls: type[ScalingGroup] = ScaleInvariance
        elif system.allows(axis, Scope.REAL, solution):
            cls = RealScaling
        else:
            cls = PositiveScaling
        sides = (
            [p for p, q in members if q > 0 and p.trainable],
            [p for p, q in members if q < 0 and p.trainable],
        )
        evidence = f"{axis.size} units through {system.path(axis, solution)}"
        approximate = system.approximate(axis, solution)
        name = block_name(*sides)
        gain = next((p for p in pieces if p.symbol.id in folded), None)
        if gain is not None and cls is RealScaling and set(charges) == {1.0, -1.0}:
            groups.append(
                FoldedGain(name, pieces, evidence, approximate, charges=charges, units=units, gain=gain)
            )
            continue
        groups.append(cls(name, pieces, evidence, approximate, charges=charges, units=units))
    return groups


def _made_of(
    members: Sequence[tuple[Piece, float]], units: Sequence[Atom], groups: Sequence[SymmetryGroup]
) -> bool:
    """Whether factors of groups that tell at least these units apart, in the same ratio, amount to this one."""
    span = Span()
    for group in groups:
        if isinstance(group, ScalingGroup) and set(units) <= set(group.units):
            span.add({p.symbol.id: Fraction(q) for p, q in group.members()})
    return not span.add({p.symbol.id: Fraction(q) for p, q in members if p.trainable})


def _inside_linear(
    members: Sequence[tuple[Piece, float]], units: Sequence[Atom], found: Sequence[SymmetryGroup]
) -> bool:
    """Whether a general linear or complex group already moves these pieces along these units."""
    for group in found:
        inside = isinstance(group, GeneralLinear) and group.axis in units
        if isinstance(group, ScalingGroup) and set(group.units) == set(units):
            inside = True
        if inside and isinstance(group, (GeneralLinear, ScalingGroup)):
            theirs = {p.symbol.id: q for p, q in zip(group.pieces, group.charges, strict=True)}
            if {p.symbol.id for p, _ in members} == set(theirs):
                return len({q / theirs[p.symbol.id] for p, q in members}) == 1
    return False
