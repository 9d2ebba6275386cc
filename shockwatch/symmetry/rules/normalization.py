"""Batch, layer, group and root-mean-square norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shockwatch.symmetry.context import Call, Context
from shockwatch.symmetry.records import Law
from shockwatch.symmetry.values import Blocks, Symbol, Value, shape, symbols, unknown


def _normalize(ctx: Context, value: Value, dims: Sequence[int], centred: bool, call: Call) -> Value:
    value = ctx.settle(value)
    if isinstance(value, Blocks):
        if value.dim in dims:
            return _written_out(ctx, value, dims, centred, call)
        children = [_normalize(ctx, child, dims, centred, call) for child in value.children]
        return value.same_cut(children)
    atoms = tuple(atom for d in dims for atom in value.dims[d])
    slices = Symbol(tuple(axis for d, axis in enumerate(value.dims) if d not in dims))
    return ctx.emit(
        Law.NORMALIZE,
        (value,),
        Symbol(value.dims),
        call.name,
        atoms=atoms,
        centred=centred,
        statistic=slices,
    )


def _written_out(ctx: Context, value: Value, dims: Sequence[int], centred: bool, call: Call) -> Value:
    """The norm of a concatenation, in the steps it consists of."""
    name = call.name
    if centred:
        mean = ctx.reduce(value, dims, True, "mean")
        value = ctx.add([value, ctx.scale(mean, -1.0, name)], name)
    square = ctx.unary(Law.POWER, value, name, exponent=2.0)
    spread = ctx.unary(Law.OFFSET, ctx.reduce(square, dims, True, "mean"), name)
    return ctx.multiply([value, ctx.unary(Law.POWER, spread, name, exponent=-0.5)], name)


def _affine(ctx: Context, value: Value, weight: Value | None, bias: Value | None, name: str) -> Value:
    if weight is not None:
        value = ctx.multiply([value, weight], name)
    return value if bias is None else ctx.add([value, bias], name)


def _layer_norm(ctx: Context, call: Call) -> Any:
    rank = len(call.shape)
    dims = list(range(rank - len(call.args[1]), rank))
    value = _normalize(ctx, call.args[0], dims, True, call)
    value = _affine(ctx, value, call.arg(2, "weight"), call.arg(3, "bias"), call.name)
    return value, unknown(()), unknown(())


def _rms_norm(ctx: Context, call: Call) -> Any:
    rank = len(call.shape)
    dims = list(range(rank - len(call.args[1]), rank))
    value = _normalize(ctx, call.args[0], dims, False, call)
    return _affine(ctx, value, call.arg(2, "weight"), None, call.name), unknown(())


def _batch_norm(ctx: Context, call: Call) -> Any:
    legit = "legit" in call.name
    x, weight, bias = call.args[:3]
    if "no_stats" in call.args or (legit and isinstance(call.args[3], bool)):
        mean, variance, training = None, None, call.args[3]
    else:
        mean, variance = call.args[3], call.args[4]
        training = call.args[5] if "no_training" not in call.name else False
    rank = len(call.shape)
    per_channel = (call.shape[1], *(1,) * (rank - 2))
    statistics = [ctx.reshape(v, per_channel) if v is not None else None for v in (mean, variance)]
    for value in (mean, variance):
        if value is not None:
            ctx.statistics |= {s.id for s in symbols(value)}
    if training:
        value = _normalize(ctx, x, [0, *range(2, rank)], True, call)
        _follow_statistics(ctx, x, mean, variance)
    else:
        assert statistics[0] is not None
        assert statistics[1] is not None
        spread = ctx.unary(Law.OFFSET, statistics[1], call.name)
        inverse = ctx.unary(Law.POWER, spread, call.name, exponent=-0.5)
        value = ctx.multiply([ctx.add([x, statistics[0]], call.name), inverse], call.name)
    shaped = [ctx.reshape(v, per_channel) if v is not None else None for v in (weight, bias)]
    return _affine(ctx, value, shaped[0], shaped[1], call.name), unknown(()), unknown(())


def _follow_statistics(ctx: Context, x: Value, mean: Value | None, variance: Value | None) -> None:
    """Running statistics move with the activations, or evaluation mode would see another function."""
    dims = [d for d in range(len(shape(x))) if d != 1]
    square = ctx.unary(Law.POWER, x, "running statistics", exponent=2.0)
    for source, target in ((x, mean), (square, variance)):
        if target is None:
            continue
        average = ctx.reduce(source, dims, False, "running statistics")
        ctx.elementwise([average, target], lambda pair, y: _tie(ctx, pair, y))


def _tie(ctx: Context, pair: list[Symbol], output: Symbol) -> Symbol:
    return ctx.emit(Law.ADD, pair, output, "running statistics")


def _group_norm(ctx: Context, call: Call) -> Any:
    x, weight, bias, batch, channels, _, groups = call.args[:7]
    grouped = ctx.reshape(x, (batch, groups, channels // groups, *call.shape[2:]))
    value = _normalize(ctx, grouped, list(range(2, len(call.shape) + 1)), True, call)
    value = ctx.reshape(value, call.shape)
    trailing = (1,) * (len(call.shape) - 2)
    shaped = [ctx.reshape(v, (channels, *trailing)) if v is not None else None for v in (weight, bias)]
    return _affine(ctx, value, shaped[0], shaped[1], call.name), unknown(()), unknown(())


RULES = {
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    **dict.fromkeys(
        [
            "native_batch_norm",
            "_native_batch_norm_legit",
            "cudnn_batch_norm",
            "_native_batch_norm_legit_no_training",
        ]
        + ["_native_batch_norm_legit_functional", "miopen_batch_norm", "_batch_norm_with_update"],
        _batch_norm,
    ),
    "native_group_norm": _group_norm,
}
