"""Names for groups, fit for a TensorBoard tag."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Sequence

from shockwatch.symmetry.pieces import Piece


def _module(piece: Piece) -> str:
    return piece.label.removesuffix(".weight").removesuffix(".bias")


def block_name(*sides: Sequence[Piece]) -> str:
    """``prefix.a-b`` for a group between the modules ``prefix.a`` and ``prefix.b``."""
    modules = list(dict.fromkeys(_module(side[0]) for side in sides if side))
    prefix = os.path.commonprefix([module.rsplit(".", 1)[0] + "." for module in modules if "." in module])
    prefix = prefix[: prefix.rfind(".") + 1] if all("." in module for module in modules) else ""
    return prefix + "-".join(module[len(prefix) :] for module in modules)


def unique(names: Iterable[str]) -> list[str]:
    """``names`` with a number on each repetition."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return result
