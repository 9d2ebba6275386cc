"""Elementwise operators: arithmetic and activations."""

from __future__ import annotations

from typing import Any

from shockwatch.symmetry.context import Call, Context
from shockwatch.symmetry.records import Law
from shockwatch.symmetry.values import Symbol, Value, shape, unknown
from shockwatch.tracing.epsilon import SMALL

# A mask value this low removes an entry from a softmax.
_MASKED = -1e4


def _is_value(item: Any) -> bool:
    return not isinstance(item, (int, float, bool, type(None)))


def _number(item: Any) -> float | None:
    """The number behind a Python scalar or a constant tensor of one value."""
    if isinstance(item, (int, float)):
        return float(item)
    return item.constant if isinstance(item, Symbol) else None


def _add(ctx: Context, call: Call) -> Value:
    terms = list(call.args[:2])
    alpha = float(call.arg(2, "alpha", 1))
    factors = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[call.name]
    numbers = [_number(term) for term in terms]
    values = [
        term if factor == 1.0 else ctx.scale(term, factor, call.name)
        for term, factor, number in zip(terms, factors, numbers, strict=True)
        if _is_value(term) and number is None
    ]
    if len(values) == 2:
        return ctx.add(values, call.name)
    number = next(n for n in numbers if n is not None)
    if number == 0:
        return values[0]
    if abs(number) <= SMALL:
        return ctx.unary(Law.OFFSET, values[0], call.name)
    constant = unknown((), number)
    ctx.data.add(constant.id)
    return ctx.add([values[0], constant], call.name)


def _multiply(ctx: Context, call: Call) -> Value:
    values = [a for a in call.args[:2] if _is_value(a)]
    if len(values) == 2:
        return ctx.multiply(values, call.name)
    number = next(n for a in call.args[:2] if (n := _number(a)) is not None)
    return ctx.scale(values[0], number, call.name)


def _divide(ctx: Context, call: Call) -> Value:
    over, under = call.args[0], call.args[1]
    if not _is_value(under):
        return ctx.scale(over, 1.0 / under if under else 1.0, call.name)
    inverse = ctx.unary(Law.POWER, under, call.name, exponent=-1.0)
    return ctx.multiply([over, inverse], call.name) if _is_value(over) else inverse


def _power(ctx: Context, call: Call) -> Value:
    base, exponent = call.args[0], call.args[1]
    if not _is_value(base) or _is_value(exponent):
        return _pointwise(ctx, call)
    return ctx.unary(Law.POWER, base, call.name, exponent=float(exponent))


def _fixed_power(exponent: float) -> Any:
    def rule(ctx: Context, call: Call) -> Value:
        return ctx.unary(Law.POWER, call.args[0], call.name, exponent=exponent)

    return rule


def _pointwise(ctx: Context, call: Call) -> Value:
    values = [a for a in call.args if isinstance(a, Symbol) or hasattr(a, "children")]
    return ctx.elementwise(values, lambda x, y: ctx.emit(Law.POINTWISE, x, y, call.name))


def _odd(ctx: Context, call: Call) -> Value:
    return ctx.unary(Law.ODD, call.args[0], call.name)


def _homogeneous(ctx: Context, call: Call) -> Value:
    values = [a for a in call.args if _is_value(a) and not isinstance(a, (list, tuple))]
    return ctx.elementwise(values, lambda x, y: ctx.emit(Law.HOMOGENEOUS, x, y, call.name))


def _threshold(ctx: Context, call: Call) -> Value:
    if call.args[1:3] == (0, 0):
        return ctx.unary(Law.HOMOGENEOUS, call.args[0], call.name)
    return _pointwise(ctx, call)


def _clamp(ctx: Context, call: Call) -> Value:
    bounds = [call.arg(1, "min"), call.arg(2, "max")]
    if all(b is None or (not _is_value(b) and b == 0) for b in bounds):
        return ctx.unary(Law.HOMOGENEOUS, call.args[0], call.name)
    least = bounds[0] if call.name in ("clamp", "clamp_min") and bounds[1] is None else None
    if isinstance(least, (int, float)) and 0 < least <= SMALL:
        # A norm kept from zero before it divides: the bound is not met, or the measurement shows it.
        return ctx.unary(Law.HOMOGENEOUS, call.args[0], call.name)
    return _pointwise(ctx, call)


def _prelu(ctx: Context, call: Call) -> Value:
    def apply(x: list[Symbol], y: Symbol) -> Symbol:
        # The slope is read as it is: it may be permuted with its unit, but not scaled.
        ctx.emit(Law.POINTWISE, (x[1],), Symbol(x[1].dims), call.name)
        return ctx.emit(Law.HOMOGENEOUS, (x[0],), y, call.name)

    weight = call.args[1]
    if isinstance(weight, Symbol) and len(weight.dims) == 1 and len(call.shape) > 1:
        trailing = (1,) * (len(call.shape) - 2)
        weight = ctx.reshape(weight, (*shape(weight), *trailing))
    return ctx.elementwise([call.args[0], weight], apply)


def _masked_fill(ctx: Context, call: Call) -> Value:
    value, mask, filler = call.args[0], call.args[1], _number(call.args[2])
    if filler == 0:
        return ctx.multiply([value, mask], call.name)
    if filler is not None and filler <= _MASKED:
        return ctx.add([value, mask], call.name)
    return ctx.elementwise([value, mask], lambda x, y: ctx.emit(Law.POINTWISE, x, y, call.name))


def _where(ctx: Context, call: Call) -> Value:
    condition, first, second = call.args
    for value, other in ((first, second), (second, first)):
        number = _number(other)
        if number == 0:
            return ctx.multiply([value, condition], call.name)
        if number is not None and number <= _MASKED:
            return ctx.add([value, condition], call.name)
    values = [v for v in (first, second, condition) if _is_value(v)]
    return ctx.elementwise(values, lambda x, y: ctx.emit(Law.POINTWISE, x, y, call.name))


def _compare(ctx: Context, call: Call) -> Value:
    if not _is_value(call.args[1]) and call.args[1] == 0:
        return ctx.unary(Law.POWER, call.args[0], call.name, exponent=0.0)
    return _pointwise(ctx, call)


def _loss(ctx: Context, call: Call) -> Value:
    """Elementwise losses with a built-in mean: the target pins the compared axes."""
    values = [a for a in call.args[:2] if _is_value(a)]
    compared = ctx.elementwise(values, lambda x, y: ctx.emit(Law.POINTWISE, x, y, call.name))
    return compared if call.shape else ctx.reduce(compared, range(len(shape(compared))), False, call.name)


RULES = {
    **dict.fromkeys(["add", "sub", "rsub"], _add),
    "mul": _multiply,
    **dict.fromkeys(["div", "true_divide"], _divide),
    "pow": _power,
    "square": _fixed_power(2.0),
    "sqrt": _fixed_power(0.5),
    "rsqrt": _fixed_power(-0.5),
    "reciprocal": _fixed_power(-1.0),
    "neg": lambda ctx, call: ctx.scale(call.args[0], -1.0, call.name),
    **dict.fromkeys(["relu", "leaky_relu", "abs", "maximum", "minimum", "rrelu_with_noise"], _homogeneous),
    "threshold": _threshold,
    **dict.fromkeys(["clamp", "hardtanh", "clamp_min", "clamp_max"], _clamp),
    **dict.fromkeys(["_prelu_kernel", "prelu"], _prelu),
    **dict.fromkeys(["tanh", "sin", "erf", "asin", "atan", "sinh", "asinh"], _odd),
    **dict.fromkeys(
        ["gelu", "silu", "sigmoid", "exp", "log", "softplus", "elu", "mish", "cos", "hardswish"]
        + ["hardsigmoid", "log1p", "expm1", "log_sigmoid_forward", "celu", "selu", "exp2", "sign", "floor"],
        _pointwise,
    ),
    "masked_fill": _masked_fill,
    "where": _where,
    **dict.fromkeys(["gt", "lt", "ge", "le", "eq", "ne"], _compare),
    **dict.fromkeys(
        ["mse_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "huber_loss"]
        + ["smooth_l1_loss", "kl_div", "l1_loss", "soft_margin_loss"],
        _loss,
    ),
}
