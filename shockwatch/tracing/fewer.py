"""The traced step on a few of the samples it was traced for: as good a test function, at a share of the time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from shockwatch.tracing.loss import StepLoss
from shockwatch.tracing.streamed import StreamedGraph
from shockwatch.tracing.trace import Trace

_ENTRIES = 2_000_000
"""Entries of all activations together: with so many no unit is silent, and no sum cancels by chance."""
_LEAST = 4

_VIEWS = ("view", "_unsafe_view", "reshape")
_CHOOSING = ("embedding", "index", "gather", "scatter", "take", "masked", "topk", "sort", "argmax")
_MAKERS = ("full", "zeros", "ones", "empty", "new_full", "new_zeros", "new_ones", "new_empty")


class FewerSamples(StepLoss):
    """The loss on ``count`` samples of ``batch``, spread evenly; a mean that divides by a written number stays so.

    Sizes that are written into the graph follow. Where that cannot be done an evaluation raises ``ValueError``, or what
    the operator raises that does not fit.
    """

    def __init__(self, trace: Trace, batch: Any, count: int) -> None:
        total = _samples(trace, batch)
        chosen = torch.arange(count) * total // count
        few = pytree.tree_map_only(Tensor, lambda t: t[chosen.to(t.device)] if t.dim() else t, batch)
        super().__init__(trace, few)
        self._sizes = total, count

    def _streamed(self) -> StreamedGraph:
        return _Fitted(self._graph, *self._sizes)


def enough_samples(trace: Trace, batch: Any) -> int | None:
    """Of how many samples a loss tells as much as of all; None where they are no fewer, or not known."""
    total = 0 if trace.replay is not None else _samples(trace, batch)
    entries = sum(_entries(node) for node in trace.graph.graph.nodes if node.op == "call_function")
    count = max(_LEAST, math.ceil(_ENTRIES * total / max(entries, 1)))
    return count if 2 * count <= total else None


def chooses(trace: Trace) -> bool:
    """Whether a sample decides what is read: a few may then leave a word, or an expert, unread."""
    names = {
        getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        for node in trace.graph.graph.nodes
    }
    return any(name.startswith(_CHOOSING) for name in names)


def _samples(trace: Trace, batch: Any) -> int:
    """The common first size of all tensors of the batch; 0 where there is none."""
    sizes = {len(leaf) for leaf in trace.leaves(batch) if leaf.dim()}
    return sizes.pop() if len(sizes) == 1 else 0


def _entries(node: Node) -> int:
    return sum(v.numel() for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, Tensor))


class _Fitted(StreamedGraph):
    """Runs a graph with ``count`` in place of ``samples``: what it was traced with stands in the nodes' ``meta``.

    A dimension that has become shorter has the samples in it: ``(above, samples, below)``. What is below is remembered
    of every value, as a view may split the dimension there.
    """

    def __init__(self, graph: torch.fx.GraphModule, samples: int, count: int) -> None:
        super().__init__(graph)
        self._samples, self._count = samples, count
        self._below: dict[Node, int] = {}

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of one node, the sizes among them fitted to what it reads."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        name = getattr(getattr(n.target, "overloadpacket", None), "__name__", "")
        if name in _VIEWS:
            return (args[0], self._viewed(n, n.args[0], args[0].shape)), {}
        if name == "expand":
            return (args[0], self._expanded(_shape(n.args[0]), args[0].shape, _shape(n))), kwargs
        if (
            name == "arange"
        ):  # numbers of the samples, unless another axis is as long: then something will not fit
            return tuple(self._count if a == self._samples else a for a in args), kwargs
        if name == "native_group_norm":
            return (*args[:3], len(args[0]), *args[4:]), kwargs
        if name in _MAKERS:
            place = int(name.startswith("new_"))
            sizes = [self._count if size == self._samples else size for size in args[place]]
            return (*args[:place], sizes, *args[place + 1 :]), kwargs
        return args, kwargs

    def run_node(self, n: Node) -> Any:
        """The value of one node.

        Raises:
            ValueError: if its shape is not that of the trace with fewer samples.
        """
        value = super().run_node(n)
        if not isinstance(value, Tensor) or not isinstance(n.meta.get("val"), Tensor):
            return value
        old, new = _shape(n), value.shape
        sizes = zip(old, new, strict=True) if len(old) == len(new) else [(1, 0)]
        for size, fewer in [(size, fewer) for size, fewer in sizes if size != fewer]:
            if size % self._samples or size * self._count != fewer * self._samples:
                raise ValueError(
                    f"{n}: is {tuple(new)} on {self._count} of {self._samples} samples, not {tuple(old)}"
                )
            like = (self._below[m] for m in n.all_input_nodes if m in self._below and size in _shape(m))
            self._below.setdefault(n, next(like, size // self._samples))
        return value

    def _expanded(self, before: Sequence[int], now: Sequence[int], after: Sequence[int]) -> list[int]:
        """Sizes of an expansion: those there were stay as they are now, and the first of new ones has the samples."""
        added = len(after) - len(before)
        pairs = zip(before, now, after[added:], strict=True)
        result = [*after[:added], *(new if old == out else out for old, new, out in pairs)]
        first_is_new = added > 0 or before[0] == 1
        return [self._count, *result[1:]] if first_is_new and after[0] == self._samples else result

    def _viewed(self, node: Node, source: Any, now: Sequence[int]) -> list[int]:
        """Sizes of a view of ``source``, which has the shape ``now``."""
        before, after = _shape(source), list(_shape(node))
        shorter = [k for k, (old, new) in enumerate(zip(before, now, strict=True)) if old != new]
        if not shorter:
            return after
        # entries below the samples: a view keeps them
        stride = self._below[source] * math.prod(before[shorter[0] + 1 :])
        for k, size in enumerate(after):
            below, rest = divmod(stride, math.prod(after[k + 1 :]))
            if len(shorter) == 1 and below and not rest and size % (below * self._samples) == 0:
                self._below[node] = below
                return [*after[:k], size * self._count // self._samples, *after[k + 1 :]]
        raise ValueError(f"{node}: no one dimension of {tuple(after)} has the samples")


def _shape(node: Any) -> Sequence[int]:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else ()
