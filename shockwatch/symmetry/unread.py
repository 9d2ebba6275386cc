"""Rows of embedding tables that a step never reads, and rows whose gradient it leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from shockwatch.tracing import Trace

_EMBEDDING = "aten.embedding.default"


def tables(trace: Trace) -> dict[str, tuple[Node, list[Node]]]:
    """Trainable tensors that some operator reads as an embedding table: the input, and those operators."""
    inputs = [node for node in trace.graph.graph.nodes if node.op == "placeholder"]
    found = {}
    for name, node in zip(trace.trainable, inputs, strict=False):
        readers = [user for user in node.users if str(user.target) == _EMBEDDING and user.args[0] is node]
        if readers:
            found[name] = node, readers
    return found


def unread_rows(trace: Trace, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Rows of trainable tables that nothing reads, whatever the batch: all indices are constants of the step.

    A batch with longer sequences may read more of a table of positions: the step it belongs to is another one.
    """
    if trace.replay is not None:
        # Traced along one batch's path: what looks constant may come from the batch.
        return {}
    inputs = [node for node in trace.graph.graph.nodes if node.op == "placeholder"]
    fixed = dict(zip(inputs[len(trace.trainable) :], trace.fixed, strict=False))
    known = {node: tensors[name].detach() for node, name in fixed.items()}
    rows = {}
    for name, (table, readers) in tables(trace).items():
        if len(readers) < len(table.users):
            continue
        indices = [_constant(reader.args[1], trace, known) for reader in readers]
        if any(index is None for index in indices):
            continue
        read = {int(row) for index in indices if index is not None for row in index.reshape(-1).tolist()}
        rows[name] = tuple(row for row in range(len(tensors[name])) if row not in read)
    return {name: missing for name, missing in rows.items() if missing}


def _constant(node: Any, trace: Trace, known: dict[Node, Tensor]) -> Tensor | None:
    """The value of an integer tensor that depends on no parameter and on no batch, or None."""
    order: list[Node] = []
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if current in known or current in seen:
            continue
        if not isinstance(current, Node) or current.op not in ("call_function", "get_attr"):
            return None
        seen.add(current)
        order.append(current)
        pending += current.all_input_nodes
    try:
        for current in sorted(order):
            known[current] = _evaluated(current, trace, known)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    value = known[node]
    known_rows = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_meta
    return value if known_rows else None


def _evaluated(node: Node, trace: Trace, known: dict[Node, Tensor]) -> Any:
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return getattr(trace.graph.get_submodule(owner), name)
    if "rand" in str(node.target) or str(node.target).split(".")[-2:-1] == ["bernoulli"]:
        raise RuntimeError("random")
    args, kwargs = pytree.tree_map_only(Node, lambda n: known[n], (node.args, node.kwargs))
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]
