"""The source texts that torch keeps of every graph it makes."""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from contextlib import contextmanager

from torch.fx import graph_module


@contextmanager
def no_sources_kept() -> Iterator[None]:
    """Forget the source texts of graphs made inside, which torch keeps for tracebacks as long as the process lives.

    Six kilobytes a run for a tiny model: a sweep of thousands of runs in one process would see it grow.
    """
    kept: dict[str, str] = getattr(getattr(graph_module, "_loader", None), "eval_cache", {})
    before = set(kept)
    try:
        yield
    finally:
        for name in set(kept) - before:
            kept.pop(name, None)
            linecache.cache.pop(name, None)
