"""Evaluate a traced graph with one parameter in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.fx import GraphModule, Node


class _Unread:
    """A tensor that is made when an operator reads it."""

    def __init__(self, make: Callable[[], Tensor], keep: bool) -> None:
        self.make = make
        self.keep = keep


class StreamedGraph(fx.Interpreter):
    """Runs ``graph`` node by node; its inputs are made when read and dropped with the last value that needs them."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)

    def evaluate(
        self,
        parameters: Sequence[Callable[[], Tensor]],
        others: Sequence[Callable[[], Tensor]],
        data: Sequence[Tensor],
    ) -> Tensor:
        """The output of the graph.

        Args:
            parameters: makers of its first inputs, which it never writes to: made anew for each operator.
            others: makers of the next, made once.
            data: the last, as they are.
        """
        inputs: list[Any] = [_Unread(make, keep=False) for make in parameters]
        inputs += [_Unread(make, keep=True) for make in others]
        result: list[Tensor] = pytree.tree_leaves(self.run(*inputs, *data, enable_io_processing=False))
        return result[0]

    def map_nodes_to_values(self, args: Any, n: Node) -> Any:
        """Arguments of one node, with unread tensors made."""

        def load(node: Node) -> Any:
            value = self.env[node]
            if not isinstance(value, _Unread):
                return value
            made = value.make()
            if value.keep:
                self.env[node] = made
            return made

        return fx.node.map_arg(args, load)
