"""GL(1, C) for each pair of features that rotary embedding turns together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.charges import ChargeSystem, Scope
from shockwatch.symmetry.groups.base import SymmetryGroup, frame, units_last
from shockwatch.symmetry.groups.scaling import ScalingGroup
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece


@dataclass(eq=False)
class ComplexScaling(ScalingGroup):
    """Pairs of query rows times ``c``, of key rows times ``1 / conj(c)``: what commutes with the rotations.

    Pieces come in pairs (first, second feature). The modulus is a scaling, balanced like any other; the phase
    turns queries and keys alike.
    """

    kind: ClassVar[str] = "complex scaling"
    speculative: ClassVar[bool] = True

    @property
    def dim(self) -> int:
        return 2 * super().dim

    @property
    def frame_order(self) -> int:
        return 50

    def _pairs(self) -> Iterator[tuple[Piece, Piece, float]]:
        for k in range(0, len(self.pieces), 2):
            yield self.pieces[k], self.pieces[k + 1], self.charges[k]

    def _unit_shape(self) -> list[int]:
        return [atom.size for atom in self.units]

    def _turn_(self, state: State, angle: Tensor) -> None:
        for first, second, _ in self._pairs():
            a = units_last(first, first.view(state), self.units)
            b = units_last(second, second.view(state), self.units)
            cosine, sine = torch.cos(angle).to(a.device, a.dtype), torch.sin(angle).to(a.device, a.dtype)
            turned = cosine * a - sine * b, sine * a + cosine * b
            a.copy_(turned[0])
            b.copy_(turned[1])

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        super().transform_(state, generator, scale)
        draw = torch.rand(
            self._unit_shape(), generator=generator, dtype=torch.float64, device=generator.device
        )
        self._turn_(state, 2 * torch.pi * draw)

    def _phase(self, pairs: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
        """Angle that turns the first two of each row nearest to the last two."""
        real = sum((self._sum(a * c + b * d) for a, b, c, d in pairs), torch.zeros((), dtype=torch.float64))
        imaginary = sum(
            (self._sum(a * d - b * c) for a, b, c, d in pairs), torch.zeros((), dtype=torch.float64)
        )
        return torch.atan2(imaginary, real)

    def _sum(self, product: Tensor) -> Tensor:
        extra = product.dim() - len(self.units)
        return product.double().sum(tuple(range(extra))) if extra else product.double()

    def _views(self, state: State) -> list[tuple[Tensor, Tensor]]:
        return [
            (
                units_last(a, a.view(state).double(), self.units),
                units_last(b, b.view(state).double(), self.units),
            )
            for a, b, _ in self._pairs()
        ]

    def fix_frame_(self, state: State) -> Tensor | None:
        a, b = self._views(state)[0]
        both = frame((2, *a.shape), a)
        self._turn_(state, self._phase([(a, b, both[0], both[1])]))
        return None

    def align_(self, state: State, reference: State) -> Tensor | None:
        pairs = zip(self._views(state), self._views(reference), strict=True)
        self._turn_(state, self._phase([(*ours, *theirs) for ours, theirs in pairs]))
        return None

    def between(self, before: State, after: State) -> Tensor:
        """The complex factor of each pair that takes ``before`` to ``after``."""
        old, new = self._views(before), self._views(after)
        phase = self._phase([(*one, *other) for one, other in zip(old, new, strict=True)])
        charge = self.charges[0]
        sizes = [self._sum(a * a + b * b) for a, b in (old[0], new[0])]
        modulus = (sizes[1] / sizes[0]).pow(0.5 / charge)
        modulus = torch.where(torch.isfinite(modulus) & (modulus > 0), modulus, torch.ones_like(modulus))
        return torch.polar(modulus, phase).cpu()

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        growth, turn = coefficients[0], coefficients[1]
        for first, second, charge in self._pairs():
            a = units_last(first, first.view(state), self.units)
            b = units_last(second, second.view(state), self.units)
            units_last(first, first.view(tangent), self.units).add_(charge * growth * a - turn * b)
            units_last(second, second.view(tangent), self.units).add_(charge * growth * b + turn * a)

    def adjoint(self, state: State, tangent: State) -> Tensor:
        growth = turn = torch.zeros(self._unit_shape(), dtype=torch.float64)
        dtype = self.pieces[0].view(tangent).dtype
        for (_, _, charge), (a, b), (u, v) in zip(
            self._pairs(), self._views(state), self._views(tangent), strict=True
        ):
            growth = growth + charge * self._sum(a * u + b * v).cpu()
            turn = turn + self._sum(a * v - b * u).cpu()
        return torch.stack([growth, turn]).to(self.pieces[0].view(tangent).device, dtype)

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        size = sum(
            (self._sum(a * a + b * b) for a, b in self._views(state)), torch.zeros((), dtype=torch.float64)
        )
        inverse = torch.where(size > 0, 1.0 / size, torch.zeros_like(size))
        return coefficients * inverse.to(coefficients.dtype)


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Real scalings whose pieces are pairs of neighbouring segments: measured, and kept if the phase holds too."""
    groups: list[SymmetryGroup] = []
    seen: set[frozenset[str]] = set()
    for axis in system.analysis.axes():
        for solution in system.basis(axis, Scope.REAL):
            members = [
                (p, float(solution[p.symbol.id])) for p in system.analysis.pieces if p.symbol.id in solution
            ]
            key = frozenset(p.label for p, _ in members)
            paired = _pair(members)
            if paired is None or key in seen:
                continue
            seen.add(key)
            pieces, charges = tuple(p for p, _ in paired), tuple(q for _, q in paired)
            sides = [p for p, q in paired if q > 0], [p for p, q in paired if q < 0]
            units = tuple(system.shared_axes(solution))
            evidence = f"{axis.size} pairs of features turned together"
            groups.append(ComplexScaling(block_name(*sides), pieces, evidence, charges=charges, units=units))
    return groups


def _pair(members: Sequence[tuple[Piece, float]]) -> list[tuple[Piece, float]] | None:
    """Members as consecutive pairs of one tensor's segments and one charge, or None."""
    places: dict[tuple[str, str, float], list[Piece]] = {}
    for piece, charge in members:
        places.setdefault((piece.name, piece.label.rpartition(".")[0], charge), []).append(piece)
    charges = {charge for *_, charge in places}
    if charges != {1.0, -1.0} or any(len(p) != 2 or not p[0].trainable for p in places.values()):
        return None
    return [(piece, charge) for (*_, charge), pair in places.items() for piece in pair]
