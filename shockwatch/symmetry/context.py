"""The analysis in progress: records so far, and the moves that every operator rule is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shockwatch.symmetry.axes import Atom, Axis, AxisConflict, fresh, join, pin, regroup, resolve, size_of
from shockwatch.symmetry.pieces import Place
from shockwatch.symmetry.records import Law, Record
from shockwatch.symmetry.values import (
    Blocks,
    Symbol,
    Value,
    factor,
    pin_all,
    replace_dim,
    shape,
    symbols,
    unknown,
)


@dataclass(frozen=True)
class Call:
    """One operator of the graph with its evaluated arguments and the shape of its (first) output."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...]

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


@dataclass
class Context:
    """Collects what the operators of one step say about axes and laws."""

    records: list[Record] = field(default_factory=list)
    statistics: set[int] = field(default_factory=set)
    data: set[int] = field(default_factory=set)
    cuts_found: bool = False
    blocked: dict[str, int] = field(default_factory=dict)
    # Tensors of indices into an axis that training may permute (the choice of experts), and that axis.
    labels: dict[int, Axis] = field(default_factory=dict)
    # Axes whose indices were weighed against one another: scores of experts.
    compared: list[Atom] = field(default_factory=list)

    # -- records ------------------------------------------------------------------------------

    def emit(
        self, law: Law, inputs: Sequence[Symbol], output: Symbol, operator: str, **details: Any
    ) -> Symbol:
        """Record one law and return its output."""
        self.records.append(Record(law, tuple(inputs), output, operator, **details))
        return output

    def opaque(self, call: Call, values: Sequence[Value]) -> Symbol:
        """An operator that says nothing: every axis it touches is pinned, every tensor fixed."""
        self.blocked[call.name] = self.blocked.get(call.name, 0) + 1
        output = unknown(call.shape)
        for value in (*values, output):
            self.freeze(value, call.name)
        # What comes out is not known to follow anything: a group that moves it would be made up.
        self.freeze(output, call.name)
        return output

    def freeze(self, value: Value, operator: str) -> None:
        """Pin every axis of ``value`` and fix its entries."""
        pin_all(value)
        for symbol in symbols(value):
            self.emit(Law.FIX, (symbol,), symbol, operator)

    # -- cutting ------------------------------------------------------------------------------

    def narrow(
        self, value: Value, dim: int, outer: int, total: int, inner: int, start: int, length: int
    ) -> Value:
        """Entries ``start : start + length`` of the middle factor of dimension ``dim``."""
        if length == total:
            return value
        if not length:
            # no entries, no constraint: what is left of a head whose features are all rotary
            sizes = list(shape(value))
            sizes[dim] = 0
            return unknown(sizes)
        if isinstance(value, Blocks):
            return self._narrow_blocks(value, dim, outer, total, inner, start, length)
        try:
            before, middle, after = factor(value, dim, outer, total, inner)
        except AxisConflict:
            pin_all(value)
            sizes = list(shape(value))
            sizes[dim] = outer * length * inner
            return self.emit(Law.SELECT, (value,), unknown(sizes), "slice")
        lead, rest = middle[0], middle[1:]
        stride = size_of(rest)
        if start % stride or length % stride:
            pin(middle)
            part = (*before, *fresh(length, pinned=True), *after)
        else:
            first, last = start // stride, (start + length) // stride
            # Axes with outside meaning are cut into equal parts only (rotary halves), not at single tokens.
            equal = first % (last - first) == 0 and lead.size % (last - first) == 0
            if any(lead is atom.root() for atom in self.compared):
                pin((lead,))
            elif not lead.pinned or (equal and (last - first > 1 or lead.size == 2)):
                self._ask_for_cut(lead, {first, last})
            part = (*before, *fresh(length // stride, pinned=True), *rest, *after)
        return self.emit(Law.SELECT, (value,), Symbol(replace_dim(value.dims, dim, part)), "slice")

    def _ask_for_cut(self, atom: Atom, borders: set[int]) -> None:
        for place in atom.root().places:
            assert isinstance(place, Place)
            place.borders |= borders - {0, place.size}
            self.cuts_found = True

    def _narrow_blocks(
        self, value: Blocks, dim: int, outer: int, total: int, inner: int, start: int, length: int
    ) -> Value:
        def each(outer_k: Callable[[int], int], inner_k: Callable[[int], int]) -> Value:
            return value.same_cut(
                [
                    self.narrow(child, dim, outer_k(size), total, inner_k(size), start, length)
                    for child, size in zip(value.children, value.sizes, strict=True)
                ]
            )

        if value.dim != dim:
            return each(lambda _: outer, lambda _: inner)
        whole = outer * total * inner
        if value.outer == outer and value.outer * value.total * value.inner == whole:
            unit = value.inner // inner if value.inner % inner == 0 else 0
            if unit and value.total * unit == total and start % unit == 0 and length % unit == 0:
                return self._narrow_same(value, start // unit, length // unit)
        if outer % (value.outer * value.total) == 0:
            return each(lambda size: outer // value.total * size, lambda _: inner)
        if inner % (value.total * value.inner) == 0:
            return each(lambda _: outer, lambda size: inner // value.total * size)
        pin_all(value)
        sizes = list(shape(value))
        sizes[dim] = outer * length * inner
        return self.emit(Law.SELECT, symbols(value), unknown(sizes), "slice")

    def _narrow_same(self, value: Blocks, start: int, length: int) -> Value:
        kept: list[tuple[int, Value]] = []
        offset = 0
        for child, size in zip(value.children, value.sizes, strict=True):
            low, high = max(start, offset), min(start + length, offset + size)
            if low < high:
                part = self.narrow(child, value.dim, value.outer, size, value.inner, low - offset, high - low)
                kept.append((high - low, part))
            offset += size
        if len(kept) == 1:
            return kept[0][1]
        sizes, children = zip(*kept, strict=True)
        return Blocks(value.dim, value.outer, value.inner, sizes, children)

    def segments(self, value: Value, dim: int, like: Blocks) -> list[Value]:
        """``value`` cut along ``dim`` as ``like`` is; broadcast where it has size 1 there."""
        if dim < 0 or shape(value)[dim] == 1:
            return [value] * len(like.sizes)
        parts, start = [], 0
        for size in like.sizes:
            parts.append(self.narrow(value, dim, like.outer, like.total, like.inner, start, size))
            start += size
        return parts

    def settle(self, value: Value, singles: bool = False) -> Value:
        """Undo a cut along an axis with outside meaning (a class token before the others).

        What follows treats the parts alike, and reads each weight once.

        Args:
            singles: also where every part is a single index: an axis of its own meaning, or units cut one by one.
        """
        if isinstance(value, Symbol):
            return value
        children = tuple(self.settle(child, singles) for child in value.children)
        parts = [child for child in children if isinstance(child, Symbol)]
        cut = [resolve(child.dims[value.dim]) for child in parts]
        pinned = all(atom.pinned for axis in cut for atom in axis) and (singles or any(cut))
        if len(parts) < len(children) or not pinned:
            return value.same_cut(children)
        for other in parts[1:]:
            for d, (axis, twin) in enumerate(zip(parts[0].dims, other.dims, strict=True)):
                if d != value.dim and axis and twin:
                    join(axis, twin)
        dims = list(parts[0].dims)
        dims[value.dim] = fresh(value.outer * value.total * value.inner, pinned=True)
        return self.emit(Law.SELECT, parts, Symbol(tuple(dims)), "cat")

    # -- combining ----------------------------------------------------------------------------

    def elementwise(self, values: Sequence[Value], apply: Callable[[list[Symbol], Symbol], Symbol]) -> Value:
        """Broadcast ``values`` against each other; ``apply`` gets uncut tensors and a fresh output."""
        blocks = next((v for v in values if isinstance(v, Blocks)), None)
        rank = max(len(shape(v)) for v in values)
        if blocks is not None:
            place = blocks.dim - len(shape(blocks))
            cut = [self.segments(v, len(shape(v)) + place, blocks) for v in values]
            return blocks.same_cut(
                [self.elementwise(part, apply) for part in zip(*cut, strict=True)], rank + place
            )
        plain = [v for v in values if isinstance(v, Symbol)]
        dims: list[Axis] = [() for _ in range(rank)]
        for symbol in plain:
            for place, axis in enumerate(symbol.dims, start=rank - len(symbol.dims)):
                if axis and dims[place]:
                    join(dims[place], axis)
                elif axis:
                    dims[place] = axis
        return apply(plain, Symbol(tuple(dims)))

    def add(self, values: Sequence[Value], operator: str) -> Value:
        """The sum of ``values``."""
        return self.elementwise(values, lambda x, y: self.emit(Law.ADD, x, y, operator))

    def multiply(self, values: Sequence[Value], operator: str) -> Value:
        """The product of two tensors."""
        return self.elementwise(values, lambda x, y: self.emit(Law.MULTIPLY, x, y, operator))

    def unary(self, law: Law, value: Value, operator: str, **details: Any) -> Value:
        """An elementwise law on one tensor."""
        return self.elementwise([value], lambda x, y: self.emit(law, x, y, operator, **details))

    def contract(self, x: Value, w: Value, x_axes: str, w_axes: str, y_axes: str, operator: str) -> Value:
        """``einsum("x_axes,w_axes->y_axes", x, w)``."""
        x, w = (
            self.settle(value) if isinstance(value, Blocks) and axes[value.dim] in y_axes else value
            for value, axes in ((x, x_axes), (w, w_axes))
        )
        for value, axes in ((x, x_axes), (w, w_axes)):
            if not isinstance(value, Blocks):
                continue
            label = axes[value.dim]
            xs = self.segments(x, x_axes.find(label), value)
            ws = self.segments(w, w_axes.find(label), value)
            parts = [
                self.contract(a, b, x_axes, w_axes, y_axes, operator) for a, b in zip(xs, ws, strict=True)
            ]
            if label in y_axes:
                return value.same_cut(parts, y_axes.index(label))
            return self.add(parts, operator)
        assert isinstance(x, Symbol)
        assert isinstance(w, Symbol)
        axes_of: dict[str, Axis] = {}
        for symbol, labels in ((x, x_axes), (w, w_axes)):
            for label, axis in zip(labels, symbol.dims, strict=True):
                if axis and axes_of.get(label):
                    join(axes_of[label], axis)
                axes_of[label] = axes_of.get(label) or axis
        summed: Axis = tuple(
            atom for label, axis in axes_of.items() if label not in y_axes for atom in resolve(axis)
        )
        output, renamed = _distinct([axes_of[label] for label in y_axes])
        return self.emit(Law.CONTRACT, (x, w), output, operator, atoms=summed, renamed=renamed)

    # -- arranging ----------------------------------------------------------------------------

    def reshape(self, value: Value, sizes: Sequence[int]) -> Value:
        """A view with other dimensions."""
        if isinstance(value, Blocks):
            return self._reshape_blocks(value, tuple(sizes))
        try:
            return value.with_dims(regroup(value.atoms(), sizes))
        except AxisConflict:
            pin_all(value)
            return self.emit(Law.SELECT, (value,), unknown(sizes), "view")

    def _reshape_blocks(self, value: Blocks, sizes: tuple[int, ...]) -> Value:
        old = shape(value)
        before = value.outer * _product(old[: value.dim])
        for dim in range(len(sizes)):
            ahead = _product(sizes[:dim])
            if before % ahead:
                continue
            outer = before // ahead
            if sizes[dim] % (outer * value.total) == 0:
                inner = sizes[dim] // (outer * value.total)
                children = [
                    self.reshape(child, (*sizes[:dim], outer * size * inner, *sizes[dim + 1 :]))
                    for child, size in zip(value.children, value.sizes, strict=True)
                ]
                return Blocks(dim, outer, inner, value.sizes, tuple(children))
            if len(set(value.sizes)) == 1 and sizes[dim] == outer * len(value.sizes):
                children = [
                    self.reshape(child, (*sizes[:dim], outer, *sizes[dim + 1 :])) for child in value.children
                ]
                return Blocks(dim, outer, 1, (1,) * len(value.sizes), tuple(children))
        pin_all(value)
        return self.emit(Law.SELECT, symbols(value), unknown(sizes), "view")

    def permute(self, value: Value, order: Sequence[int]) -> Value:
        """Dimensions in another order."""
        if isinstance(value, Blocks):
            children = [self.permute(child, order) for child in value.children]
            return value.same_cut(children, list(order).index(value.dim))
        return value.with_dims([value.dims[d] for d in order])

    def scale(self, value: Value, factor: float, operator: str) -> Value:
        """``factor * value`` with a number."""
        return self.elementwise([value], lambda x, y: self.emit(Law.SELECT, x, y, operator, factor=factor))

    def reduce(self, value: Value, dims: Sequence[int], keep: bool, operator: str) -> Value:
        """A sum or mean over ``dims``."""
        if isinstance(value, Blocks):
            children = [self.reduce(child, dims, keep, operator) for child in value.children]
            if value.dim in dims:
                return self.add(children, operator)
            gone = 0 if keep else sum(d < value.dim for d in dims)
            return value.same_cut(children, value.dim - gone)
        left = [() if d in dims else axis for d, axis in enumerate(value.dims) if keep or d not in dims]
        factor = 1.0
        if operator == "sum":
            factor = float(size_of(a for d in dims for a in value.dims[d]))
        return self.emit(Law.SELECT, (value,), Symbol(tuple(left)), operator, factor=factor)


def _distinct(dims: list[Axis]) -> tuple[Symbol, tuple[tuple[Atom, Atom], ...]]:
    """A tensor with these dimensions; an axis with outside meaning that would come twice gets a second identity.

    Scores of tokens against tokens are the case: what is constant along the keys is not so along the queries.
    """
    seen: set[Atom] = set()
    renamed: list[tuple[Atom, Atom]] = []
    axes: list[Axis] = []
    for axis in dims:
        atoms: list[Atom] = []
        for atom in resolve(axis):
            if atom in seen and atom.pinned:
                twin = atom.twin()
                renamed.append((atom, twin))
                atoms.append(twin)
            else:
                seen.add(atom)
                atoms.append(atom)
        axes.append(tuple(atoms))
    return Symbol(tuple(axes)), tuple(renamed)


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
