"""The traced loss as a function of the state: value, gradient, Hessian-vector product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.tracing.streamed import StreamedGraph
from shockwatch.tracing.trace import Trace


class HessianProduct:
    """``v -> H v`` at one point; the graph of the gradient is built once and kept.

    Shapes: vectors are lists of tensors like ``inputs``. One product costs about two gradients.
    """

    def __init__(self, gradient: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        self._gradient = gradient
        self._inputs = inputs

    def __call__(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """``H v``; zero where the loss does not depend on a tensor or depends on it linearly."""
        pairs = [(g, v) for g, v in zip(self._gradient, vector, strict=True) if g.requires_grad]
        if not pairs:
            return [torch.zeros_like(p) for p in self._inputs]
        outputs, weights = zip(*pairs, strict=True)
        product = torch.autograd.grad(outputs, self._inputs, weights, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if h is None else h for h, p in zip(product, self._inputs, strict=True)]


class StepLoss:
    """``L(state)`` on one fixed batch. Pure: safe on any thread, draws nothing, touches no module.

    Args:
        trace: the traced step.
        batch: a batch of the traced structure and shapes; it is referenced, not copied.
    """

    def __init__(self, trace: Trace, batch: Any) -> None:
        self.names = trace.trainable
        self._fixed = trace.fixed
        self._graph = trace.graph
        self._leaves = trace.leaves(batch)

    def compile(self) -> None:
        """Make the graph's code now, and not at the first evaluation."""
        _ = self._graph.code

    def _run(self, parameters: list[Tensor], state: State, frozen: State) -> Tensor:
        # The graph updates batch-norm statistics in place: it gets its own copies.
        others = [state[n].clone() if n in state else frozen[n].clone() for n in self._fixed]
        loss: Tensor = self._graph(parameters, others, self._leaves)
        return loss

    def value(self, state: State, frozen: State) -> float:
        """``L(state)``. ``frozen`` holds the tensors that ``state`` lacks."""
        with torch.no_grad():
            return float(self._run([state[n] for n in self.names], state, frozen))

    def streamed_value(self, read: Callable[[str], Tensor]) -> float:
        """``L`` with every tensor read by name when an operator asks for it: no second copy of the model is alive.

        Args:
            read: gives a tensor by name; it is not changed.
        """

        def own(name: str) -> Tensor:
            return read(name).clone()

        parameters = [partial(read, n) for n in self.names]
        others = [partial(own, n) for n in self._fixed]
        with torch.no_grad():
            return float(self._streamed().evaluate(parameters, others, self._leaves))

    def _streamed(self) -> StreamedGraph:
        return StreamedGraph(self._graph)

    def output(self, state: State, frozen: State) -> Tensor:
        """What the graph returns, where that is not a loss but any tensor."""
        with torch.no_grad():
            return self._run([state[n] for n in self.names], state, frozen)

    def gradient(self, state: State, frozen: State) -> tuple[float, list[Tensor]]:
        """``L`` and its gradient, in the order of ``names``."""
        inputs = [state[n].detach().requires_grad_(True) for n in self.names]
        with torch.enable_grad():
            loss = self._run(inputs, state, frozen)
            gradient = torch.autograd.grad(loss, inputs, allow_unused=True)
        return float(loss.detach()), [
            torch.zeros_like(p) if g is None else g for g, p in zip(gradient, inputs, strict=True)
        ]

    def linearize(self, state: State, frozen: State) -> tuple[float, list[Tensor], HessianProduct]:
        """``L``, its gradient and the Hessian-vector product at ``state``."""
        inputs = [state[n].detach().requires_grad_(True) for n in self.names]
        with torch.enable_grad():
            loss = self._run(inputs, state, frozen)
            raw = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for g, p in zip(raw, inputs, strict=True)]
        return float(loss.detach()), [g.detach() for g in gradient], HessianProduct(gradient, inputs)
