"""Operators that sum, average, maximise or normalise over some axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shockwatch.symmetry.axes import fresh, pin, resolve
from shockwatch.symmetry.context import Call, Context
from shockwatch.symmetry.records import Law
from shockwatch.symmetry.values import Blocks, Symbol, Value, shape, unknown


def reduced_dims(call: Call, position: int = 1) -> list[int]:
    """The dimensions a reduction runs over; all if none are named."""
    rank = len(shape(call.args[0]))
    dims = call.arg(position, "dim")
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(rank))
    named: Sequence[int] = dims if isinstance(dims, (list, tuple)) else [dims]
    return [d % rank for d in named] if rank else []


def _sum(ctx: Context, call: Call) -> Value:
    return ctx.reduce(call.args[0], reduced_dims(call), bool(call.arg(2, "keepdim", False)), call.name)


def _extremum(ctx: Context, call: Call) -> Any:
    value = ctx.unary(Law.HOMOGENEOUS, call.args[0], call.name)
    reduced = ctx.reduce(value, reduced_dims(call), bool(call.arg(2, "keepdim", False)), call.name)
    whole = call.name in ("amax", "amin") or len(call.args) == 1
    return reduced if whole else (reduced, unknown(call.shape))


def _variance(ctx: Context, call: Call) -> Any:
    dims = reduced_dims(call)
    keep = bool(call.kwargs.get("keepdim", call.args[3] if len(call.args) > 3 else False))
    square = ctx.unary(Law.POWER, call.args[0], call.name, exponent=2.0)
    variance = ctx.reduce(square, dims, keep, call.name)
    if call.name == "std":
        return ctx.unary(Law.POWER, variance, call.name, exponent=0.5)
    if call.name == "var_mean":
        return variance, ctx.reduce(call.args[0], dims, keep, call.name)
    return variance


def _norm(ctx: Context, call: Call) -> Value:
    size = ctx.unary(Law.HOMOGENEOUS, call.args[0], call.name)
    square = ctx.unary(Law.POWER, size, call.name, exponent=2.0)
    keep = bool(call.arg(3, "keepdim", False))
    total = ctx.reduce(square, reduced_dims(call, 2), keep, call.name)
    return ctx.unary(Law.POWER, total, call.name, exponent=0.5)


def _softmax(ctx: Context, call: Call) -> Value:
    rank = len(call.shape)
    return softmax(ctx, call.args[0], call.args[1] % rank, call)


def softmax(ctx: Context, value: Value, dim: int, call: Call) -> Value:
    """Softmax or log-softmax along ``dim``: it does not see a shift along it."""
    value = ctx.settle(value, singles=True)
    if isinstance(value, Blocks):
        if value.dim == dim:
            return ctx.opaque(call, [value])
        return value.same_cut([softmax(ctx, child, dim, call) for child in value.children])
    atoms = resolve(value.dims[dim])
    ctx.compared += atoms
    return ctx.emit(Law.SOFTMAX, (value,), Symbol(value.dims), call.name, atoms=atoms)


def _logsumexp(ctx: Context, call: Call) -> Value:
    value = ctx.unary(Law.POINTWISE, call.args[0], call.name)
    return ctx.reduce(value, reduced_dims(call), bool(call.arg(2, "keepdim", False)), call.name)


def _pool(ctx: Context, call: Call, law: Law) -> Value:
    value: Value = call.args[0]
    if isinstance(value, Blocks):
        children = []
        for child, size in zip(value.children, value.sizes, strict=True):
            sizes = list(call.shape)
            sizes[value.dim] = value.outer * size * value.inner
            part = Call(call.name, (child, *call.args[1:]), call.kwargs, tuple(sizes))
            children.append(_pool(ctx, part, law))
        return value.same_cut(children)
    dims = list(value.dims)
    spatial = range(len(dims) - (len(dims) - 2), len(dims)) if len(dims) > 2 else range(1, len(dims))
    for d in spatial:
        pin(dims[d])
        dims[d] = fresh(call.shape[d], pinned=True)
    window = ctx.emit(law, (value,), Symbol(value.dims), call.name)
    return ctx.emit(Law.SELECT, (window,), Symbol(tuple(dims)), call.name)


def _max_pool(ctx: Context, call: Call) -> Any:
    pooled = _pool(ctx, call, Law.HOMOGENEOUS)
    return (pooled, unknown(call.shape)) if "with_indices" in call.name or "adaptive" in call.name else pooled


def _linear_pool(ctx: Context, call: Call) -> Value:
    return _pool(ctx, call, Law.SELECT)


def _cumulative(ctx: Context, call: Call) -> Value:
    value: Value = call.args[0]
    if isinstance(value, Blocks):
        return ctx.opaque(call, [value])
    pin(value.dims[call.args[1]])
    return ctx.emit(Law.SELECT, (value,), Symbol(value.dims), call.name)


RULES = {
    **dict.fromkeys(["sum", "mean"], _sum),
    **dict.fromkeys(["amax", "amin", "max", "min"], _extremum),
    **dict.fromkeys(["var", "std", "var_mean"], _variance),
    "linalg_vector_norm": _norm,
    **dict.fromkeys(["_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax"], _softmax),
    "logsumexp": _logsumexp,
    **dict.fromkeys(
        ["max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "max_pool1d"]
        + ["adaptive_max_pool3d"],
        _max_pool,
    ),
    **dict.fromkeys(
        ["avg_pool2d", "avg_pool3d", "avg_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"]
        + ["upsample_nearest2d", "upsample_bilinear2d", "upsample_nearest1d"],
        _linear_pool,
    ),
    "cumsum": _cumulative,
}
