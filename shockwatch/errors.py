"""Validation of arguments (every message names the argument, its value and what it may be), and warnings."""

from __future__ import annotations

import logging
import math
import warnings

_log = logging.getLogger("shockwatch")


class ShockwatchWarning(UserWarning):
    """Something in the analysis did not work; the training itself is not affected."""


def warn(message: str) -> None:
    """Warn, but never raise: a filter that turns warnings into errors must not stop a run."""
    try:
        warnings.warn(message, ShockwatchWarning, stacklevel=3)
    except ShockwatchWarning:
        _log.warning(message)


def require_positive_int(name: str, value: object) -> int:
    """Return ``value`` if it is an integer >= 1.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: must be an integer >= 1")
    return value


def require_float(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
) -> float:
    """Return ``value`` as a float if it is a number in ``[low, high]`` (``(low, high]`` if ``open_low``).

    Raises:
        ValueError: if it is not.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (low <= float(value) <= high) or (open_low and float(value) == low):  # type: ignore[arg-type]
        bracket = "(" if open_low else "["
        raise ValueError(f"{name}={value!r}: must be a number in {bracket}{low:g}, {high:g}]")
    return float(value)  # type: ignore[arg-type]


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: if it is not.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")
    return str(value)
