"""A step without the small constants that keep divisions finite."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch.fx import Node

from shockwatch.tracing.trace import Trace

SMALL = 1e-3
"""An added constant up to this size counts as an epsilon."""

_SHRINK = 1e-10
_ADDED = ("aten::add", "aten::clamp", "aten::clamp_min", "aten::maximum")


def without_epsilon(trace: Trace) -> Trace:
    """The step with every eps of a norm shrunk until rounding hides it: what holds but for an eps holds there."""
    graph = copy.deepcopy(trace.graph)
    for node in graph.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        names = [argument.name for argument in schema.arguments]
        added = schema.name.removesuffix("_") in _ADDED
        node.args = tuple(
            _shrunk(value) if (name == "eps" or (added and position > 0)) else value
            for position, (name, value) in enumerate(zip(names, node.args, strict=False))
        )
    graph.recompile()
    return replace(trace, graph=graph)


def _shrunk(value: Any) -> Any:
    if isinstance(value, float) and not isinstance(value, Node) and 0 < value <= SMALL:
        return value * _SHRINK
    return value
