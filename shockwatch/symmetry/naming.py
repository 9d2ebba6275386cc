"""Names for groups, fit for a TensorBoard tag."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from shockwatch.symmetry.pieces import Piece


def _module(piece: Piece) -> str:
    return piece.label.removesuffix(".weight").removesuffix(".bias")


def block_name(*sides: Sequence[Piece]) -> str:
    """``prefix.a-b`` for a group between the modules ``prefix.a`` and ``prefix.b``."""
    modules = list(dict.fromkeys(_module(side[0]) for side in sides if side))
    parents = [module.split(".")[:-1] for module in modules]
    shared = list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False)))
    prefix = "".join(f"{parts[0]}." for parts in shared)
    return prefix + "-".join(module[len(prefix) :] for module in modules)


def unique(names: Iterable[str]) -> list[str]:
    """``names`` with a number on each repetition."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return result
