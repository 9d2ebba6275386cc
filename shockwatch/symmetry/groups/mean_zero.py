"""R^k: readers of a centring norm, whose output has mean zero before the gain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.groups.base import ContinuousGroup, SymmetryGroup
from shockwatch.symmetry.groups.translation import Translation
from shockwatch.symmetry.naming import block_name
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.records import Law
from shockwatch.symmetry.shifts import ShiftAnalysis, roots
from shockwatch.symmetry.values import Symbol


@dataclass(eq=False)
class MeanZeroReader(ContinuousGroup):
    """``W + v / gain`` and ``b - v sum(bias / gain)`` for a map that reads ``gain * x + bias`` with ``sum(x) = 0``.

    Canonical form: ``sum(W * gain) = 0`` for each output, which no scaling of the gain against ``W`` changes.

    Attributes:
        weight, reader_bias: the reading map.
        gain, norm_bias: the norm's.
        summed: dimensions of ``weight``'s view that run over the normalised axis.
        excluded: dimensions of ``v`` along which it has mean zero: that direction is a logit shift already.
    """

    kind: ClassVar[str] = "translation"
    kept_by_others: ClassVar[bool] = True
    can_stack: ClassVar[bool] = True

    weight: Piece | None = None
    reader_bias: Piece | None = None
    gain: Piece | None = None
    norm_bias: Piece | None = None
    summed: tuple[int, ...] = ()
    excluded: tuple[int, ...] = ()

    @property
    def _weight(self) -> Piece:
        assert self.weight is not None
        return self.weight

    def _free(self) -> list[Atom]:
        return [a for d, a in enumerate(self._weight.atoms) if d not in self.summed]

    @property
    def dim(self) -> int:
        sizes = [atom.size for atom in self._free()]
        excluded = math.prod(sizes[d] for d in self.excluded) if self.excluded else 0
        return math.prod(sizes) - (math.prod(sizes) // excluded if excluded else 0)

    @property
    def least_norm(self) -> bool:
        # The form does not see the gain's scale; the least norm would.
        return self.gain is None and self.norm_bias is None

    def _along(self, piece: Piece | None, state: State, default: float) -> Tensor:
        """A vector of the norm, shaped to broadcast over the weight's view."""
        view, own = self._weight.view(state), [a.root() for a in piece.atoms] if piece is not None else []
        if piece is None:
            return view.new_full([n if d in self.summed else 1 for d, n in enumerate(view.shape)], default)
        atoms = [a.root() for a in self._weight.atoms]
        shape = [n if a in own else 1 for n, a in zip(view.shape, atoms, strict=True)]
        return piece.view(state).permute([own.index(a) for a in atoms if a in own]).reshape(shape)

    def _inverse_gain(self, state: State) -> Tensor:
        gain = self._along(self.gain, state, 1.0)
        # A gain at zero hides its column; there is nothing to divide by.
        return torch.where(gain.abs() > 1e-12, 1.0 / gain, torch.zeros_like(gain))

    def _offset(self, state: State) -> Tensor:
        """``sum(bias / gain)``, one for each layer, ready to broadcast over ``v``."""
        return (self._along(self.norm_bias, state, 0.0) * self._inverse_gain(state)).sum(self.summed)

    def _centred(self, v: Tensor) -> Tensor:
        return v - v.mean(self.excluded, keepdim=True) if self.excluded else v

    def _shift_(self, state: State, target: State, v: Tensor) -> None:
        v = self._centred(v)
        offset, spread = self._offset(state), v
        for d in sorted(self.summed):
            spread = spread.unsqueeze(d)
        step = (spread * self._inverse_gain(state)).to(v.dtype)
        self._weight.view(target).add_(step)
        if self.reader_bias is not None:
            free = [atom.root() for atom in self._free()]
            order = [free.index(atom.root()) for atom in self.reader_bias.atoms]
            self.reader_bias.view(target).sub_((v * offset).permute(order))

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        view = self._weight.view(state)
        shape = [atom.size for atom in self._free()]
        draw = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        size = scale / math.sqrt(max(math.prod(view.shape[d] for d in self.summed), 1))
        self._shift_(state, state, (size * draw).to(view.device, view.dtype))

    def _level(self, state: State) -> Tensor:
        product = self._weight.view(state) * self._along(self.gain, state, 1.0)
        used = (self._inverse_gain(state) != 0).sum(self.summed).clamp_min(1)
        return product.sum(self.summed) / used

    def canonicalize_(self, state: State) -> float:
        self._shift_(state, state, -self._level(state))
        return 0.0

    def imbalance(self, state: State) -> Tensor:
        return self._by_layer(self._centred(self._level(state)))

    def stacked(self, layer: Atom) -> MeanZeroReader:
        summed, excluded = (tuple(d + 1 for d in dims) for dims in (self.summed, self.excluded))
        return dataclasses.replace(self, summed=summed, excluded=excluded)

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        self._shift_(state, tangent, coefficients)

    def adjoint(self, state: State, tangent: State) -> Tensor:
        total = (self._weight.view(tangent) * self._inverse_gain(state)).sum(self.summed)
        if self.reader_bias is not None:
            own = [atom.root() for atom in self.reader_bias.atoms]
            order = [own.index(atom.root()) for atom in self._free()]
            total = total - self.reader_bias.view(tangent).permute(order) * self._offset(state)
        return self._centred(total)

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        size = self._inverse_gain(state).square().sum(self.summed)
        if self.reader_bias is not None:
            size = size + self._offset(state).square()
        return self._centred(coefficients) / size.clamp_min(torch.finfo(coefficients.dtype).tiny)


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Every map that reads a centring norm, with or without gain and bias between."""
    analysis = ShiftAnalysis(system)
    shifted = {
        g.pieces[0].symbol.id: {g.pieces[0].atoms[d].root() for d in g.along}
        for g in found
        if isinstance(g, Translation) and g.along
    }
    groups: list[SymmetryGroup] = []
    for record in system.analysis.records:
        if record.law is not Law.NORMALIZE or not record.centred:
            continue
        axes = roots(record.atoms)
        for weight, gain, bias, output in _readers(analysis, record.output, axes, None, None):
            reader = _bias_of(analysis, output, roots(weight.atoms) - axes)
            if (bias is not None and reader is None) or len(analysis.uses(weight.symbol)) != 1:
                continue
            summed = tuple(d for d, atom in enumerate(weight.atoms) if atom.root() in axes)
            if len(summed) != len(axes):
                # A square map back into its own stream: which of its sides is read cannot be told by the axis.
                continue
            free = [atom.root() for atom in weight.atoms if atom.root() not in axes]
            excluded = tuple(d for d, a in enumerate(free) if a in shifted.get(weight.symbol.id, ()))
            reader = reader if bias is not None else None
            pieces = tuple(p for p in (weight, reader) if p is not None)
            group = MeanZeroReader(
                block_name([weight]),
                pieces,
                "reads a norm whose output has mean zero",
                weight=weight,
                reader_bias=reader,
                gain=gain,
                norm_bias=bias,
                summed=summed,
                excluded=excluded,
            )
            if group.dim:
                groups.append(group)
    return groups


def _readers(
    analysis: ShiftAnalysis, symbol: Symbol, axes: frozenset[Atom], gain: Piece | None, bias: Piece | None
) -> Iterator[tuple[Piece, Piece | None, Piece | None, Symbol]]:
    """Maps that contract the normalised axis: (weight, gain, bias, output)."""
    for record in analysis.uses(symbol):
        if record.law is Law.SELECT and record.factor == 1.0 and axes <= roots(record.output.atoms()):
            yield from _readers(analysis, record.output, axes, gain, bias)
            continue
        if len(record.inputs) != 2:
            continue
        first, second = record.inputs
        piece = analysis.piece(second if symbol.id == first.id else first)
        if piece is None:
            continue
        if record.law is Law.MULTIPLY and gain is None and bias is None and roots(piece.atoms) == axes:
            yield from _readers(analysis, record.output, axes, piece, bias)
        elif record.law is Law.ADD and bias is None and roots(piece.atoms) == axes:
            yield from _readers(analysis, record.output, axes, gain, piece)
        elif record.law is Law.CONTRACT and roots(record.atoms) == axes:
            yield piece, gain, bias, record.output


def _bias_of(analysis: ShiftAnalysis, symbol: Symbol, axes: frozenset[Atom]) -> Piece | None:
    """The bias that is added to ``symbol`` right away."""
    uses = analysis.uses(symbol)
    if len(uses) != 1 or uses[0].law is not Law.ADD:
        return None
    pieces = [analysis.piece(other) for other in uses[0].inputs if other.id != symbol.id]
    fitting = [p for p in pieces if p is not None and roots(p.atoms) == axes]
    return fitting[0] if fitting and len(analysis.uses(fitting[0].symbol)) == 1 else None
