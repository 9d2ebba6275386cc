"""Bilinear operators: matrix products and convolutions."""

from __future__ import annotations

from shockwatch.symmetry.axes import fresh, pin
from shockwatch.symmetry.context import Call, Context
from shockwatch.symmetry.records import Law
from shockwatch.symmetry.values import Blocks, Symbol, Value, shape, symbols


def _mm(ctx: Context, call: Call) -> Value:
    return ctx.contract(call.args[0], call.args[1], "nk", "km", "nm", call.name)


def _bmm(ctx: Context, call: Call) -> Value:
    return ctx.contract(call.args[0], call.args[1], "bnk", "bkm", "bnm", call.name)


def _mv(ctx: Context, call: Call) -> Value:
    return ctx.contract(call.args[0], call.args[1], "nk", "k", "n", call.name)


def _dot(ctx: Context, call: Call) -> Value:
    return ctx.contract(call.args[0], call.args[1], "k", "k", "", call.name)


def _addmm(ctx: Context, call: Call) -> Value:
    product = ctx.contract(call.args[1], call.args[2], "nk", "km", "nm", call.name)
    return ctx.add([call.args[0], product], call.name)


def _baddbmm(ctx: Context, call: Call) -> Value:
    product = ctx.contract(call.args[1], call.args[2], "bnk", "bkm", "bnm", call.name)
    return ctx.add([call.args[0], product], call.name)


def _linear(ctx: Context, call: Call) -> Value:
    rank = len(call.shape)
    lead = "abcdefg"[: rank - 1]
    product = ctx.contract(call.args[0], call.args[1], lead + "k", "mk", lead + "m", call.name)
    bias = call.arg(2, "bias")
    return product if bias is None else ctx.add([product, bias], call.name)


def _convolution(ctx: Context, call: Call) -> Value:
    """A convolution contracts channels and taps of unfolded windows; each group is a batch of its own."""
    x, weight, bias = call.args[0], call.args[1], call.args[2]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    spatial = len(call.shape) - 2
    if isinstance(weight, Blocks) and weight.dim > 1:
        return ctx.opaque(call, [v for v in (x, weight, bias) if v is not None])
    taps = shape(weight)[2:]
    for symbol in symbols(weight):
        for axis in symbol.dims[2:]:
            pin(axis)
    windows = _unfold(ctx, x, taps, call.shape[2:])
    k, s = "pqr"[:spatial], "xyz"[:spatial]
    channels_in, channels_out = shape(x)[1], call.shape[1]
    if groups == 1:
        w_axes = ("co" if transposed else "oc") + k
        product = ctx.contract(windows, weight, "bc" + k + s, w_axes, "bo" + s, call.name)
    else:
        windows = ctx.reshape(windows, (call.shape[0], groups, channels_in // groups, *taps, *call.shape[2:]))
        if transposed:
            grouped = ctx.reshape(weight, (groups, channels_in // groups, channels_out // groups, *taps))
        else:
            grouped = ctx.reshape(weight, (groups, channels_out // groups, channels_in // groups, *taps))
        w_axes = ("gco" if transposed else "goc") + k
        product = ctx.contract(windows, grouped, "bgc" + k + s, w_axes, "bgo" + s, call.name)
        product = ctx.reshape(product, call.shape)
    if bias is None:
        return product
    return ctx.add([product, ctx.reshape(bias, (channels_out, *(1,) * spatial))], call.name)


def _unfold(ctx: Context, x: Value, taps: tuple[int, ...], sizes: tuple[int, ...]) -> Value:
    if isinstance(x, Blocks):
        return x.same_cut([_unfold(ctx, child, taps, sizes) for child in x.children])
    for axis in x.dims[2:]:
        pin(axis)
    window = tuple(fresh(size, pinned=True) for size in (*taps, *sizes))
    return ctx.emit(Law.SELECT, (x,), Symbol((*x.dims[:2], *window)), "convolution")


RULES = {
    "mm": _mm,
    "bmm": _bmm,
    "mv": _mv,
    **dict.fromkeys(["dot", "vdot"], _dot),
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "linear": _linear,
    "convolution": _convolution,
}
