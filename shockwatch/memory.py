"""How much memory the machine has left, and what the analysis may keep there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from torch import nn

from shockwatch.errors import require_choice

Memory = Literal["auto", "full", "sketch"]
"""``"full"``: points of the past are kept; ``"sketch"``: sketches of them; ``"auto"``: as free memory allows."""

FULL_COPIES = 20
"""Copies of the parameters that plain snapshots in full take at their peak (``examples/benchmarks/memory.py``)."""

PROBE_COPIES = 70
"""The same for a curvature probe, but for the two vectors that each of its Hessian-vector products leaves."""

MOST_PRODUCTS, FEWEST_PRODUCTS = 60, 24
"""Hessian-vector products of a probe: at most, and what it takes to see anything."""

_UNKNOWN = 8 << 30
_GROUPS = Path("/proc/self/cgroup")
_INFO = Path("/proc/meminfo")
_MOUNT = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that can be taken without swapping, under the limits of the control group; 8 GiB where nothing is said."""
    return min([*_of_the_machine(), *_of_the_group()], default=_UNKNOWN)


def products_within(size: int) -> int:
    """How many Hessian-vector products a probe may make on parameters of ``size`` bytes; 0 where it finds no room."""
    room = (available_bytes() // max(size, 1) - PROBE_COPIES) // 2
    return 0 if room < FEWEST_PRODUCTS else min(room, MOST_PRODUCTS)


def require_memory(name: str, value: object) -> Memory:
    """Return ``value`` if it is a memory mode.

    Raises:
        ValueError: if it is not.
    """
    return require_choice(name, value, ("auto", "full", "sketch"))  # type: ignore[return-value]


def sketches(memory: Memory, model: nn.Module) -> bool:
    """Whether sketches are kept instead of points; with ``"auto"`` where ``FULL_COPIES`` are more than half of what
    is free."""
    if memory != "auto":
        return memory == "sketch"
    size = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return 2 * FULL_COPIES * size > available_bytes()


def _of_the_machine() -> list[int]:
    try:
        for line in _INFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return [int(line.split()[1]) << 10]
        return [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (OSError, ValueError, AttributeError):
        return []


def _of_the_group() -> list[int]:
    """What the limits of the own control group leave, in both versions of the interface."""
    try:
        lines = _GROUPS.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            places = [(_MOUNT / path.lstrip("/"), "memory.max", "memory.current", "inactive_file")]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            # inside a container the own group is the root of what is mounted
            places = [(_MOUNT / "memory" / path.lstrip("/"), *names), (_MOUNT / "memory", *names)]
        else:
            continue
        for folder, limit, usage, cache in places:
            try:
                most = int((folder / limit).read_text())
                used = int((folder / usage).read_text())
                rows = (row.split() for row in (folder / "memory.stat").read_text().splitlines())
                rooms.append(most - used + next((int(row[1]) for row in rows if row[0] == cache), 0))
            except (OSError, ValueError):  # "max": no limit
                continue
    return rooms
