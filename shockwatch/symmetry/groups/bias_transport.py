"""R^k: a bias moved along the stream into the biases that read it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
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
from shockwatch.symmetry.transport import Sink, Transport, find_transports


def _spread(shift: Tensor, axes: Sequence[Atom], piece: Piece, like: Tensor) -> Tensor:
    """``shift`` over ``axes`` in the order of the piece's own dimensions, broadcast over the others."""
    order = [axes.index(atom.root()) for atom in piece.atoms if atom.root() in axes]
    shape = [atom.size if atom.root() in axes else 1 for atom in piece.atoms]
    return shift.permute(order).reshape(shape).to(like.dtype).expand_as(like)


def _gather(view: Tensor, axes: Sequence[Atom], piece: Piece) -> Tensor:
    """The adjoint of :func:`_spread`."""
    rest = tuple(d for d, atom in enumerate(piece.atoms) if atom.root() not in axes)
    kept = [atom.root() for atom in piece.atoms if atom.root() in axes]
    summed = view.sum(rest) if rest else view
    return summed.permute([kept.index(axis) for axis in axes])


@dataclass(eq=False)
class BiasTransport(ContinuousGroup):
    """``source + c``, and every bias that meets the shift ``J c`` downstream ``- J c`` (theory.md 1, "translation").

    ``J`` is the product of the weights between them; attention passes a shift of its values, its rows sum to 1.
    Value against output bias, two biases that add into one stream, the bias of a norm against those of its readers.
    Canonical form: the source is zero.

    Attributes:
        transport: where the shift starts, which linear maps it meets, and what takes it up.
        excluded: dimensions of the shift along which it has mean zero: constant ones are translations already.
    """

    kind: ClassVar[str] = "translation"
    kept_by_others: ClassVar[bool] = True
    can_stack: ClassVar[bool] = True

    transport: Transport | None = None
    excluded: tuple[int, ...] = ()

    @property
    def _path(self) -> Transport:
        assert self.transport is not None
        return self.transport

    @property
    def dim(self) -> int:
        sizes = [axis.size for axis in self._path.axes]
        total = math.prod(sizes)
        return total - (total // math.prod(sizes[d] for d in self.excluded) if self.excluded else 0)

    def _centred(self, shift: Tensor) -> Tensor:
        return shift - shift.mean(self.excluded, keepdim=True) if self.excluded else shift

    @property
    def least_norm(self) -> bool:
        # Part of the shift would stay in the source, for the sinks' sake.
        return not self._path.sinks

    def _shift_(self, state: State, target: State, shift: Tensor) -> None:
        """Add the vertical vector of ``shift`` at ``state`` to ``target``."""
        shift = self._centred(shift)
        source = self._path.source
        view = source.view(target)
        view.add_(_spread(shift, self._path.axes, source, view))
        for sink in self._path.sinks:
            view = sink.piece.view(target)
            view.sub_(_spread(self._forward(sink, state, shift), sink.axes, sink.piece, view))

    def _forward(self, sink: Sink, state: State, shift: Tensor) -> Tensor:
        for step in sink.steps:
            shift = step.forward(shift, state)
        return shift

    def transform_(self, state: State, generator: torch.Generator, scale: float) -> None:
        view = self._path.source.view(state)
        shape = [axis.size for axis in self._path.axes]
        draw = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        self._shift_(state, state, (scale * draw).to(view.device, view.dtype))

    def _level(self, state: State) -> Tensor:
        """Mean of the source along the axes on which its shift is constant."""
        source = self._path.source
        level = _gather(source.view(state), self._path.axes, source) / _copies(source, self._path.axes)
        return self._centred(level)

    def canonicalize_(self, state: State) -> float:
        self._shift_(state, state, -self._level(state))
        return 0.0

    def imbalance(self, state: State) -> Tensor:
        return self._by_layer(self._centred(self._level(state)))

    def stacked(self, layer: Atom) -> BiasTransport:
        path = self._path
        sinks = []
        for sink in path.sinks:
            steps = tuple(
                dataclasses.replace(s, before=(layer, *s.before), after=(layer, *s.after)) for s in sink.steps
            )
            sinks.append(dataclasses.replace(sink, axes=(layer, *sink.axes), steps=steps))
        transport = Transport(path.source, (layer, *path.axes), tuple(sinks))
        return dataclasses.replace(self, transport=transport, excluded=tuple(d + 1 for d in self.excluded))

    def generate_(self, coefficients: Tensor, state: State, tangent: State) -> None:
        self._shift_(state, tangent, coefficients)

    def adjoint(self, state: State, tangent: State) -> Tensor:
        source = self._path.source
        total: Tensor = _gather(source.view(tangent), self._path.axes, source)
        for sink in self._path.sinks:
            part = _gather(sink.piece.view(tangent), sink.axes, sink.piece)
            for step in reversed(sink.steps):
                part = step.backward(part, state)
            total = torch.sub(total, part)
        return self._centred(total)

    def solve_gram(self, coefficients: Tensor, state: State) -> Tensor:
        return self.gram_solver(state)(coefficients)

    def gram_solver(self, state: State, *, rough: bool = False) -> Callable[[Tensor], Tensor]:
        """Cholesky factors of ``1 + sum J^T J``, each term times the number of its copies; one for each layer."""
        source, layered = self._path.source, self._path.source.stacked
        axes = self._path.axes[layered:]
        shape = [axis.size for axis in axes]
        size = math.prod(shape)
        like = source.view(state)
        eye = torch.eye(size, dtype=torch.float64, device=like.device)
        gram = (_copies(source, self._path.axes) * eye).expand(self.layers, size, size)
        # all layers at once: unit k of each of them
        units = eye.reshape(size, *(1,) * layered, *shape).expand(size, *(a.size for a in self._path.axes))
        maps: dict[int, Tensor] = {}
        for sink in self._path.sinks:
            image = self._forward(sink, state, units.to(like.dtype)).double()
            order = [0, *(1 + sink.axes.index(a.root()) for a in sink.piece.atoms if a.root() in sink.axes)]
            flat = image.permute(order).reshape(size, self.layers, -1).movedim(1, 0)
            known = maps.get(sink.piece.symbol.id)
            maps[sink.piece.symbol.id] = flat if known is None else known + flat
        for sink in {sink.piece.symbol.id: sink for sink in self._path.sinks}.values():
            flat = maps[sink.piece.symbol.id]
            gram = gram + _copies(sink.piece, sink.axes) * (flat @ flat.mT)
        if self.excluded:
            # The projected Gram matrix, with the excluded directions made regular.
            dims = tuple(1 + d - layered for d in self.excluded)
            rows = eye.reshape(size, *shape)
            basis = (rows - rows.mean(dims, keepdim=True)).reshape(size, size)
            gram = basis @ gram @ basis + (eye - basis)
        factor = torch.linalg.cholesky(gram)

        def solve(coefficients: Tensor) -> Tensor:
            right = self._centred(coefficients).reshape(self.layers, size, 1).double()
            return torch.cholesky_solve(right, factor).to(coefficients.dtype).reshape(coefficients.shape)

        return solve


def _copies(piece: Piece, axes: Sequence[Atom]) -> int:
    """How often a shift over ``axes`` stands in ``piece``."""
    return math.prod(atom.size for atom in piece.atoms if atom.root() not in axes)


def find(system: ChargeSystem, found: Sequence[SymmetryGroup]) -> list[SymmetryGroup]:
    """Every bias whose shift other biases can take up."""
    removed = _removed(found)
    groups: list[SymmetryGroup] = []
    for transport in find_transports(system):
        sinks = tuple(dict.fromkeys(sink.piece for sink in transport.sinks))
        evidence = "taken up by " + ", ".join(dict.fromkeys(piece.label for piece in sinks))
        pieces = (transport.source, *sinks)
        name = block_name([transport.source], *([s] for s in sinks))
        excluded = _excluded(transport, removed)
        group = BiasTransport(name, pieces, evidence, transport=transport, excluded=excluded)
        if group.dim:
            groups.append(group)
    return groups


def _removed(found: Sequence[SymmetryGroup]) -> dict[int, list[frozenset[Atom]]]:
    """Axes along which constant shifts of a piece are translations already, by the piece."""
    removed: dict[int, list[frozenset[Atom]]] = {}
    for group in found:
        if isinstance(group, Translation):
            piece = group.pieces[0]
            axes = frozenset(piece.atoms[d].root() for d in group.along)
            removed.setdefault(piece.symbol.id, []).append(axes)
    return removed


def _excluded(transport: Transport, removed: dict[int, list[frozenset[Atom]]]) -> tuple[int, ...]:
    """Dimensions of the shift along which constants need no transport: source and sinks all lose them by themselves."""

    def loses(piece: Piece, axes: Sequence[Atom], constant: frozenset[Atom]) -> bool:
        return any(known & set(axes) <= constant for known in removed.get(piece.symbol.id, []))

    for known in removed.get(transport.source.symbol.id, []):
        constant = known & set(transport.axes)
        if constant and all(
            all(step.weight is None for step in sink.steps) and loses(sink.piece, sink.axes, constant)
            for sink in transport.sinks
        ):
            return tuple(d for d, axis in enumerate(transport.axes) if axis in constant)
    return ()
