"""Trace one training step to an aten graph (design.md, "Symmetry by inference")."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental.proxy_tensor import make_fx

from shockwatch.snapshot import State
from shockwatch.tracing.decompositions import decomposition_table
from shockwatch.tracing.step import LossFunction, PrivateStep, undisturbed

# Relative sizes of the moves at which the graph is compared with the module.
_PERTURBATIONS = (1e-3, 0.1, 0.3)
_SEED = 20260618
_RANDOM = ("rand", "bernoulli", "dropout", "normal_", "uniform_", "multinomial", "exponential", "poisson")


class TraceError(RuntimeError):
    """The training step cannot be traced; the message says what stopped it."""


@dataclass(frozen=True)
class Replay:
    """The step itself, kept where the graph holds only the path of one batch.

    Attributes:
        step: runs the module; on the main thread only, where its draws can be undone.
        reason: why fake tensors did not do.
        follows_parameters: whether the graph gives the module's loss at other parameters too.
    """

    step: PrivateStep
    reason: str
    follows_parameters: bool


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
        replay: the step itself, where the graph is the path that one batch took; None for a graph of every batch.
    """

    graph: GraphModule
    trainable: tuple[str, ...]
    fixed: tuple[str, ...]
    batch_spec: pytree.TreeSpec
    draws_random_numbers: bool
    dtype: torch.dtype | None
    replay: Replay | None = None

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

    @property
    def precision(self) -> float:
        """Machine epsilon of the coarsest type among the trainable parameters."""
        own = list(self.graph.graph.nodes)[: len(self.trainable)]
        return max((_epsilon(node.meta["val"].dtype) for node in own), default=0.0)

    def casts(self) -> list[fx.Node]:
        """The operators that round what they get to a type coarser than the model's own."""
        return [
            node
            for node in self.graph.graph.nodes
            if node.op == "call_function"
            and _coarseness(node) > self.precision
            and any(0 < _coarseness(source) < _coarseness(node) for source in node.all_input_nodes)
        ]

    def in_dtype(self, dtype: torch.dtype, *, keep_casts: bool = False) -> Trace:
        """The same step with every floating-point number in it of one type: constants and casts included.

        Args:
            keep_casts: whether what the model itself computes in a type coarser than that of its parameters stays so.
        """
        graph = copy.deepcopy(self.graph)
        limit = self.precision if keep_casts else math.inf

        def converted(item: Any) -> Any:
            if not isinstance(item, torch.dtype) or not item.is_floating_point or _epsilon(item) > limit:
                return item
            return dtype

        for node in graph.graph.nodes:
            _name_type(node)
            node.args = fx.node.map_aggregate(node.args, converted)
            node.kwargs = fx.node.map_aggregate(node.kwargs, converted)
            if node.op == "get_attr":
                _convert_constant(graph, str(node.target), converted)
            elif str(node.target) in _SOFTMAX and not _coarseness(node.args[0]) > limit:
                # The flag stands for a cast from half to single precision, which is gone.
                node.args = (*node.args[:2], False)
        graph.recompile()
        return replace(self, graph=graph, dtype=dtype)


def _epsilon(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def _coarseness(node: Any) -> float:
    """Machine epsilon of what a node returns first; 0 where that is no floating-point tensor."""
    value = node.meta.get("val")
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return _epsilon(value.dtype) if floating else 0.0


def _name_type(node: fx.Node) -> None:
    """Give a tensor that is made inside the step (``torch.ones``) its type by name: else it is the global default."""
    value = node.meta.get("val")
    schema = getattr(node.target, "_schema", None)
    if (
        schema is None
        or node.all_input_nodes
        or not isinstance(value, Tensor)
        or not value.is_floating_point()
    ):
        return
    if node.kwargs.get("dtype") is None and any(argument.name == "dtype" for argument in schema.arguments):
        node.update_kwarg("dtype", value.dtype)


_SOFTMAX = ("aten._softmax.default", "aten._log_softmax.default")


def _convert_constant(graph: GraphModule, target: str, converted: Callable[[Any], Any]) -> None:
    owner, _, name = target.rpartition(".")
    module = graph.get_submodule(owner)
    constant = getattr(module, name)
    if isinstance(constant, Tensor) and constant.is_floating_point():
        setattr(module, name, constant.detach().to(converted(constant.dtype)))


def trace_step(model: nn.Module, loss_fn: LossFunction, batch: Any) -> Trace:
    """Trace ``loss_fn(model, batch)``: no change to the model or to any generator.

    Fake tensors come first: they cost no memory and run nothing. A step that reads values (a branch, ``item()``, a
    mask, a kernel without a fake form) is run once on private copies and traced along the path this batch takes.

    Raises:
        TraceError: if the step cannot be traced, or does not return a scalar tensor.
    """
    try:
        return _traced(PrivateStep(model, loss_fn), batch, fake=True)
    except Exception as error:
        reason = _first_line(error)
    # A fresh copy: the first may have kept fake tensors.
    step = PrivateStep(model, loss_fn)
    try:
        trace = _traced(step, batch, fake=False)
    except Exception as error:
        raise TraceError(f"the training step cannot be traced: {_first_line(error)}") from error
    return replace(trace, replay=Replay(step, reason, follows_parameters(trace, step, batch)))


def _traced(step: PrivateStep, batch: Any, fake: bool) -> Trace:
    trainable = tuple(n for n, p in step.parameters.items() if p.requires_grad and p.is_floating_point())
    fixed = tuple(n for n in step.tensors if n not in set(trainable))
    leaves, spec = pytree.tree_flatten(batch)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def twin(tensor: Tensor, requires_grad: bool) -> Tensor:
        if not fake:
            return tensor.detach().clone().requires_grad_(requires_grad)
        with mode:
            empty = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
            )
        return empty.requires_grad_(requires_grad)

    def run(parameters: list[Tensor], others: list[Tensor], data: list[Tensor]) -> Tensor:
        state = {**dict(zip(trainable, parameters, strict=True)), **dict(zip(fixed, others, strict=True))}
        data_iterator = iter(data)
        filled = [next(data_iterator) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return step(state, pytree.tree_unflatten(filled, spec))

    inputs = (
        [twin(step.tensors[n], True) for n in trainable],
        [twin(step.tensors[n], False) for n in fixed],
        [twin(leaf, False) for leaf in leaves if isinstance(leaf, Tensor)],
    )
    # compiled when it is run as a whole, if ever, and so are its copies: most are read node by node
    with undisturbed(), _plain_kernels(), _use_lazy_graph_module(True), mode if fake else nullcontext():
        graph = make_fx(
            run,
            decomposition_table(),
            # "fake" would make twins of the twins
            tracing_mode="real",
            _allow_non_fake_inputs=True,
            _error_on_data_dependent_ops=fake,
        )(*inputs)
    _remove_dead(graph)
    _detach_constants(graph)
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    draws = any(word in name for name in names for word in _RANDOM)
    return Trace(graph, trainable, fixed, spec, draws, None)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without oneDNN, whose fused recurrent layers know no double precision. Global: for the main thread only."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def _remove_dead(graph: GraphModule) -> None:
    """Drop what the loss does not read and nobody else sees: metrics for a log, values that chose the path."""
    for node in reversed(graph.graph.nodes):
        schema = getattr(node.target, "_schema", None)
        pure = (schema is not None and not schema.is_mutable) or node.target is operator.getitem
        if node.op == "call_function" and pure and not node.users:
            graph.graph.erase_node(node)
    graph.recompile()


def _detach_constants(graph: GraphModule) -> None:
    """A tensor the module kept from an earlier step (a hidden state) is a number here, without its history."""
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            constant = getattr(graph.get_submodule(owner), name)
            if isinstance(constant, Tensor) and constant.grad_fn is not None:
                setattr(graph.get_submodule(owner), name, constant.detach())


def follows_parameters(trace: Trace, step: PrivateStep, batch: Any) -> bool:
    """Whether the graph gives the module's own loss at other parameters too, on the traced batch.

    It does not where a kernel hides its input from the trace, or where the path depends on the parameters.
    """
    generator = torch.Generator().manual_seed(_SEED)
    for size in _PERTURBATIONS:
        state: State = {}
        for name, tensor in step.tensors.items():
            state[name] = tensor.detach().clone()
            if name in trace.trainable:
                noise = torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
                spread = tensor.detach().std() if tensor.numel() > 1 else tensor.detach().abs().max()
                state[name] += size * torch.where(spread > 0, spread, torch.ones_like(spread)) * noise
        expected = step.value(state, batch)
        with torch.no_grad():
            given = trace.graph(
                [state[n].clone() for n in trace.trainable],
                [state[n].clone() for n in trace.fixed],
                trace.leaves(batch),
            )
        if not math.isclose(float(given), expected, rel_tol=_tolerance(given.dtype), abs_tol=1e-12):
            return False
    return True


def _tolerance(dtype: torch.dtype) -> float:
    """Relative; some rounding of a whole step."""
    return 1e3 * torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
