"""Operators that only arrange entries: views, slices, concatenation, selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shockwatch.symmetry.axes import Axis, fresh, join, pin, resolve
from shockwatch.symmetry.context import Call, Context
from shockwatch.symmetry.records import Law
from shockwatch.symmetry.values import Blocks, Symbol, Value, replace_dim, shape, symbols, unknown


def _same(ctx: Context, call: Call) -> Value:
    value: Value = call.args[0]
    return value


def _view(ctx: Context, call: Call) -> Value:
    return ctx.reshape(call.args[0], call.shape)


def _transpose(ctx: Context, call: Call) -> Value:
    rank = len(shape(call.args[0]))
    order = list(range(rank))
    first, second = (call.args[1], call.args[2]) if len(call.args) > 2 else (0, 1)
    if rank > 1:
        order[first], order[second] = order[second], order[first]
    return ctx.permute(call.args[0], order)


def _permute(ctx: Context, call: Call) -> Value:
    rank = len(shape(call.args[0]))
    return ctx.permute(call.args[0], [d % rank for d in call.args[1]])


def _expand(ctx: Context, call: Call) -> Value:
    return expand(ctx, call.args[0], call.shape)


def expand(ctx: Context, value: Value, sizes: Sequence[int]) -> Value:
    """Repeat ``value`` along dimensions of size 1 and new leading dimensions."""
    lead = len(sizes) - len(shape(value))
    if tuple(sizes[lead:]) == shape(value) and lead == 0:
        return value
    if isinstance(value, Blocks):
        children = []
        for child, size in zip(value.children, value.sizes, strict=True):
            part = list(sizes)
            part[lead + value.dim] = value.outer * size * value.inner
            children.append(expand(ctx, child, part))
        return value.same_cut(children, lead + value.dim)
    dims: list[Axis] = [fresh(size) for size in sizes[:lead]]
    for axis, size in zip(value.dims, sizes[lead:], strict=True):
        dims.append(axis or fresh(size))
    return ctx.emit(Law.SELECT, (value,), Symbol(tuple(dims)), "expand")


def _slice(ctx: Context, call: Call) -> Value:
    value: Value = call.args[0]
    sizes = shape(value)
    dim = call.arg(1, "dim", 0) % len(sizes)
    size = sizes[dim]
    start = min(max(_wrapped(call.arg(2, "start") or 0, size), 0), size)
    end = call.arg(3, "end")
    end = size if end is None else min(max(_wrapped(end, size), start), size)
    step = call.arg(4, "step", 1)
    if step == 1:
        return ctx.narrow(value, dim, 1, size, 1, start, end - start)
    if size % step == 0 and start < step and end > size - step:
        return ctx.narrow(value, dim, size // step, step, 1, start, 1)
    return ctx.opaque(call, [value])


def _wrapped(index: int, size: int) -> int:
    return index + size if index < 0 else index


def _select(ctx: Context, call: Call) -> Value:
    value: Value = call.args[0]
    sizes = shape(value)
    dim = call.args[1] % len(sizes)
    part = ctx.narrow(value, dim, 1, sizes[dim], 1, _wrapped(call.args[2], sizes[dim]), 1)
    return ctx.reshape(part, call.shape)


def _split(ctx: Context, call: Call) -> tuple[Value, ...]:
    value: Value = call.args[0]
    sizes = shape(value)
    dim = call.arg(2, "dim", 0) % len(sizes)
    lengths = call.args[1]
    if isinstance(lengths, int):
        lengths = [min(lengths, sizes[dim] - start) for start in range(0, sizes[dim], lengths)]
    parts, start = [], 0
    for length in lengths:
        parts.append(ctx.narrow(value, dim, 1, sizes[dim], 1, start, length))
        start += length
    return tuple(parts)


def _unbind(ctx: Context, call: Call) -> tuple[Value, ...]:
    value: Value = call.args[0]
    sizes = shape(value)
    dim = call.arg(1, "dim", 0) % len(sizes)
    rest = sizes[:dim] + sizes[dim + 1 :]
    return tuple(ctx.reshape(ctx.narrow(value, dim, 1, sizes[dim], 1, k, 1), rest) for k in range(sizes[dim]))


def _cat(ctx: Context, call: Call) -> Value:
    values: list[Value] = list(call.args[0])
    rank = len(call.shape)
    dim = call.arg(1, "dim", 0) % rank
    values = [v for v in values if len(shape(v)) == rank and shape(v)[dim]]
    if len(values) == 1:
        return values[0]
    lined = _line_up(ctx, values, dim)
    return Blocks(dim, 1, 1, tuple(shape(v)[dim] for v in lined), tuple(lined))


def _stack(ctx: Context, call: Call) -> Value:
    dim = call.arg(1, "dim", 0) % len(call.shape)
    parts = [ctx.reshape(v, (*call.shape[:dim], 1, *call.shape[dim + 1 :])) for v in call.args[0]]
    lined = _line_up(ctx, parts, dim)
    return Blocks(dim, 1, 1, (1,) * len(lined), tuple(lined))


def _line_up(ctx: Context, values: list[Value], dim: int) -> list[Value]:
    """The parts of a concatenation share all other axes, index by index."""
    plain = [v for v in values if isinstance(v, Symbol)]
    for other in plain[1:]:
        for d, (first, second) in enumerate(zip(plain[0].dims, other.dims, strict=True)):
            if d != dim and first and second:
                join(first, second)
    return values


def _embedding(ctx: Context, call: Call) -> Value:
    weight: Value = call.args[0]
    if isinstance(weight, Blocks):
        return ctx.opaque(call, [weight])
    pin(weight.dims[0])
    lead = tuple(fresh(size, pinned=True) for size in call.shape[:-1])
    return ctx.emit(Law.SELECT, (weight,), Symbol((*lead, weight.dims[1])), call.name)


def _index(ctx: Context, call: Call) -> Value:
    value: Value = call.args[0]
    indices: list[Any] = list(call.args[1])
    used = [d for d, index in enumerate(indices) if index is not None]
    if isinstance(value, Blocks) or used != list(range(used[0], used[-1] + 1)):
        return ctx.opaque(call, [value])
    for d in used:
        pin(value.dims[d])
    count = len(call.shape) - (len(value.dims) - len(used))
    middle = tuple(fresh(size, pinned=True) for size in call.shape[used[0] : used[0] + count])
    dims = (*value.dims[: used[0]], *middle, *value.dims[used[-1] + 1 :])
    return ctx.emit(Law.SELECT, (value,), Symbol(dims), call.name)


def _picked(ctx: Context, call: Call) -> Value:
    """Operators that reorder or pick along one dimension by an index or by value."""
    value: Value = call.args[0]
    if isinstance(value, Blocks):
        return ctx.opaque(call, [value])
    dim = call.arg(1, "dim", 0)
    dims: Sequence[int] = dim if isinstance(dim, (list, tuple)) else [dim]
    output = value.dims
    for d in (d % len(value.dims) for d in dims):
        pin(output[d])
        output = replace_dim(output, d, fresh(call.shape[d], pinned=True))
    if call.name == "gather":
        for d, size in enumerate(call.shape):
            if size != shape(value)[d]:
                output = replace_dim(output, d, fresh(size, pinned=True))
    return ctx.emit(Law.SELECT, (value,), Symbol(output), call.name)


def _topk(ctx: Context, call: Call) -> Any:
    """The largest entries along one axis: the choice does not care for their order, the indices remember the axis."""
    value: Value = call.args[0]
    rank = len(call.shape)
    dim = call.arg(2, "dim", -1) % rank
    if isinstance(value, Blocks):
        value = ctx.settle(value, singles=True)
    if isinstance(value, Blocks):
        return ctx.opaque(call, [value]), unknown(call.shape)
    chosen = fresh(call.shape[dim], pinned=True)
    indices = unknown(call.shape)
    ctx.labels[indices.id] = value.dims[dim]
    scores = resolve(value.dims[dim])
    ctx.compared += scores
    # what is constant along the scores is so along the chosen ones
    renamed = tuple(zip(scores, chosen, strict=True)) if len(scores) == len(chosen) else ()
    output = Symbol(replace_dim(value.dims, dim, chosen))
    return ctx.emit(Law.SELECT, (value,), output, call.name, renamed=renamed), indices


def _scatter(ctx: Context, call: Call) -> Value:
    """Chosen entries put back in their places among zeros."""
    target, index, source = call.args[0], call.args[2], call.args[3]
    label = ctx.labels.get(index.id) if isinstance(index, Symbol) else None
    plain = isinstance(target, Symbol) and target.constant == 0 and isinstance(source, Symbol)
    if label is None or not plain or shape(index) != shape(source):
        return ctx.opaque(call, [v for v in call.args if isinstance(v, (Symbol, Blocks))])
    dims = replace_dim(source.dims, call.args[1] % len(call.shape), label)
    return ctx.emit(Law.SELECT, (source,), Symbol(dims), call.name)


def _roll(ctx: Context, call: Call) -> Value:
    value: Value = call.args[0]
    moved = call.arg(2, "dims", []) if call.name == "roll" else call.args[1]
    if isinstance(value, Blocks) or not moved:
        return ctx.opaque(call, [value])
    for d in moved:
        pin(value.dims[d])
    return ctx.emit(Law.SELECT, (value,), Symbol(value.dims), call.name)


def _pad(ctx: Context, call: Call) -> Value:
    value: Value = call.args[0]
    if isinstance(value, Blocks) or call.arg(2, "value", 0):
        return ctx.opaque(call, [value])
    dims = list(value.dims)
    for d, (old, new) in enumerate(zip(shape(value), call.shape, strict=True)):
        if old != new:
            pin(dims[d])
            dims[d] = fresh(new, pinned=True)
    return ctx.emit(Law.SELECT, (value,), Symbol(tuple(dims)), call.name)


def _repeat(ctx: Context, call: Call) -> Value:
    value: Value = call.args[0]
    if isinstance(value, Blocks):
        return ctx.opaque(call, [value])
    lead = len(call.shape) - len(value.dims)
    dims = [fresh(size) for size in call.shape[:lead]]
    for axis, times in zip(value.dims, call.args[1][lead:], strict=True):
        dims.append((*fresh(times), *axis))
    return ctx.emit(Law.SELECT, (value,), Symbol(tuple(dims)), call.name)


def _nll(ctx: Context, call: Call) -> tuple[Value, Value]:
    """Negative log-likelihood picks the target's class."""
    for symbol in symbols(call.args[0]):
        pin(symbol.dims[1] if len(symbol.dims) > 1 else symbol.dims[0])
    output = ctx.emit(Law.SELECT, symbols(call.args[0]), unknown(call.shape), call.name)
    return output, unknown(())


RULES = {
    **dict.fromkeys(
        ["clone", "contiguous", "detach", "alias", "_to_copy", "lift_fresh", "lift_fresh_copy", "to"]
        + ["positive", "dropout", "view_of"],
        _same,
    ),
    **dict.fromkeys(
        ["view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "unflatten"],
        _view,
    ),
    **dict.fromkeys(["t", "transpose", "numpy_T"], _transpose),
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(["split", "split_with_sizes"], _split),
    "unbind": _unbind,
    "cat": _cat,
    "stack": _stack,
    "embedding": _embedding,
    "index": _index,
    **dict.fromkeys(["gather", "index_select"], _picked),
    **dict.fromkeys(["roll", "flip"], _roll),
    "topk": _topk,
    "scatter": _scatter,
    "constant_pad_nd": _pad,
    "repeat": _repeat,
    **dict.fromkeys(["nll_loss_forward", "nll_loss2d_forward", "nll_loss_nd"], _nll),
}
