"""Invariant products of linear blocks: attention heads, linear pairs, low-rank adapters."""

from __future__ import annotations

from shockwatch.observables.base import Observable, Point


class BlockInvariants(Observable):
    """``block/<name>/spectral_norm``, ``stable_rank`` and ``effective_rank`` of products such as ``W_Q^T W_K``.

    Where a block has many heads: the largest norm and the smallest ranks, so that one collapsing head shows.
    """

    def compute(self, point: Point, previous: Point | None) -> dict[str, float]:
        return point.quotient.invariants(point.canonical)
