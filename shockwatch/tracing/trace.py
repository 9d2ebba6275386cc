"""Trace one training step to an aten graph on fake tensors (design.md, "Symmetry by inference")."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.stateless import _reparametrize_module

from shockwatch.replica import preserved_randomness, private_copy
from shockwatch.snapshot import State
from shockwatch.tracing.decompositions import decomposition_table

LossFunction = Callable[[Any, Any], Tensor]
"""``loss_fn(model, batch) -> scalar tensor``."""

_RANDOM = ("rand", "bernoulli", "dropout", "normal_", "uniform_", "multinomial", "exponential", "poisson")


class TraceError(RuntimeError):
    """The training step cannot be traced; the message says what stopped it."""


@dataclass(frozen=True)
class Trace:
    """The loss of one training step as a graph over (parameters, buffers, batch).

    Attributes:
        graph: takes three lists of tensors and returns the scalar loss.
        trainable: names of the floating-point parameters that require a gradient, in the order of the graph's inputs.
        fixed: names of all other tensors of the model (frozen parameters, buffers), in the same sense.
        batch_spec: how the batch flattens.
        draws_random_numbers: the step calls a random operator even with dropout off.
        dtype: the floating-point type the graph was converted to, None where it is the model's own.
    """

    graph: GraphModule
    trainable: tuple[str, ...]
    fixed: tuple[str, ...]
    batch_spec: pytree.TreeSpec
    draws_random_numbers: bool
    dtype: torch.dtype | None

    def leaves(self, batch: Any) -> list[Tensor]:
        """The tensors of ``batch``, in the order and the floating-point type of the graph's inputs."""
        leaves, spec = pytree.tree_flatten(batch)
        if spec != self.batch_spec:
            raise ValueError(f"batch={spec}: must have the structure of the traced batch, {self.batch_spec}")
        return [
            leaf.to(self.dtype) if leaf.is_floating_point() and self.dtype is not None else leaf
            for leaf in leaves
            if isinstance(leaf, Tensor)
        ]

    def in_dtype(self, dtype: torch.dtype) -> Trace:
        """The same step with every floating-point number in it of one type: constants and casts included."""
        graph = copy.deepcopy(self.graph)

        def converted(item: Any) -> Any:
            return dtype if isinstance(item, torch.dtype) and item.is_floating_point else item

        for node in graph.graph.nodes:
            node.args = fx.node.map_aggregate(node.args, converted)
            node.kwargs = fx.node.map_aggregate(node.kwargs, converted)
            if node.op == "get_attr":
                _convert_constant(graph, str(node.target), dtype)
            elif str(node.target) in _SOFTMAX:
                # The flag stands for a cast from half to single precision, which is gone.
                node.args = (*node.args[:2], False)
        graph.recompile()
        return replace(self, graph=graph, dtype=dtype)


_SOFTMAX = ("aten._softmax.default", "aten._log_softmax.default")


def _convert_constant(graph: GraphModule, target: str, dtype: torch.dtype) -> None:
    owner, _, name = target.rpartition(".")
    module = graph.get_submodule(owner)
    constant = getattr(module, name)
    if isinstance(constant, Tensor) and constant.is_floating_point():
        setattr(module, name, constant.detach().to(dtype))


def _evaluation_mode(model: nn.Module) -> None:
    """Dropout off, batch norm on batch statistics: the training loss without its noise."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()


def trace_step(model: nn.Module, loss_fn: LossFunction, batch: Any) -> Trace:
    """Trace ``loss_fn(model, batch)`` without running it: no memory, no change to the model or to any generator.

    Raises:
        TraceError: if the step cannot be traced, or does not return a scalar tensor.
    """
    private = private_copy(model)
    _evaluation_mode(private)
    named = dict(private.named_parameters())
    trainable = tuple(n for n, p in named.items() if p.requires_grad and p.is_floating_point())
    tensors: State = {**named, **dict(private.named_buffers())}
    fixed = tuple(n for n in tensors if n not in set(trainable))
    leaves, spec = pytree.tree_flatten(batch)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(tensor: Tensor, requires_grad: bool) -> Tensor:
        with mode:
            twin = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
            )
        return twin.requires_grad_(requires_grad)

    def step(parameters: list[Tensor], others: list[Tensor], data: list[Tensor]) -> Tensor:
        swap = {**dict(zip(trainable, parameters, strict=True)), **dict(zip(fixed, others, strict=True))}
        data_iterator = iter(data)
        filled = [next(data_iterator) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        with _reparametrize_module(private, swap, tie_weights=True):
            loss = loss_fn(private, pytree.tree_unflatten(filled, spec))
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TypeError(f"the loss must be a scalar tensor, not {type(loss).__name__}")
        return loss.reshape(())

    inputs = (
        [fake(tensors[n], True) for n in trainable],
        [fake(tensors[n], False) for n in fixed],
        [fake(leaf, False) for leaf in leaves if isinstance(leaf, Tensor)],
    )
    try:
        with preserved_randomness(), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            graph = make_fx(step, decomposition_table(), tracing_mode="fake", _allow_non_fake_inputs=True)(
                *inputs
            )
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise TraceError(
            f"the training step cannot be traced: {type(error).__name__}: {reason[0]}"
        ) from error
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    draws = any(word in name for name in names for word in _RANDOM)
    return Trace(graph, trainable, fixed, spec, draws, None)
