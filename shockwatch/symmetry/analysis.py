"""Read a traced step axis by axis (design.md, "Symmetry by inference")."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Node

from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.context import Call, Context
from shockwatch.symmetry.pieces import Piece, Place, lay_out
from shockwatch.symmetry.records import Record
from shockwatch.symmetry.rules import RULES
from shockwatch.symmetry.values import Blocks, Symbol, Value, symbols, unknown
from shockwatch.tracing import Trace

# Every pass may find new cuts (packed projections inside packed projections); real models need one or two.
_MOST_PASSES = 12


# Operators that read the shape of their argument, never its entries.
_SHAPE_ONLY = frozenset(
    ["new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like"]
)


@dataclass(frozen=True)
class Analysis:
    """What a step says about the axes of its parameters.

    Attributes:
        records: the laws, in the order of the graph.
        pieces: the parts of parameters and of running statistics that a group may act on.
        fixed: symbols that keep their values (frozen parameters, buffers, data).
        blocked: operators without a rule, and how often each was met on a parameter's path.
        unread: rows of tables that the step never reads, by name.
    """

    records: tuple[Record, ...]
    pieces: tuple[Piece, ...]
    fixed: frozenset[int]
    blocked: dict[str, int]
    unread: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def axes(self) -> list[Atom]:
        """The axes of the pieces, each once."""
        return list(dict.fromkeys(atom.root() for piece in self.pieces for atom in piece.atoms))

    def free_axes(self) -> list[Atom]:
        """The axes without outside meaning: their indices may change places."""
        return [axis for axis in self.axes() if not axis.pinned]


def analyse(trace: Trace, shapes: dict[str, tuple[int, ...]], apart: Collection[str] = ()) -> Analysis:
    """Interpret the graph on axes; packed tensors are cut and the graph is read again until nothing new shows.

    Args:
        shapes: sizes of every tensor of the model by name.
        apart: tensors held fixed, each use with axes of its own.
    """
    places = {name: tuple(Place(size) for size in sizes) for name, sizes in shapes.items()}
    for _ in range(_MOST_PASSES):
        context, pieces = _read(trace, places, apart)
        if not context.cuts_found:
            break
        changed = [_apply_cuts(place) for dims in places.values() for place in dims]
        if not any(changed):
            break
    fixed = frozenset(
        piece.symbol.id
        for piece in pieces
        if not piece.trainable and piece.symbol.id not in context.statistics
    )
    acting = tuple(piece for piece in pieces if piece.symbol.id not in fixed)
    return Analysis(tuple(context.records), acting, fixed | context.data, dict(context.blocked))


def _apply_cuts(place: Place) -> bool:
    below = place.parts or place.segments or ()
    changed = [_apply_cuts(part) for part in below]
    fresh = place.segments is None
    place.cut()
    return any(changed) or (fresh and place.segments is not None)


def _read(
    trace: Trace, places: dict[str, tuple[Place, ...]], apart: Collection[str]
) -> tuple[Context, list[Piece]]:
    context = Context()
    pieces: list[Piece] = []
    environment: dict[Node, Any] = {}
    # What one operator sees of a tensor whose uses are kept apart.
    copies: dict[Node, dict[Node, Value]] = {}
    inputs = [node for node in trace.graph.graph.nodes if node.op == "placeholder"]
    for name, node in zip((*trace.trainable, *trace.fixed), inputs, strict=False):
        if name not in apart:
            environment[node], parts = lay_out(name, name in trace.trainable, places[name])
            pieces += parts
            continue
        for user in node.users:
            own = tuple(Place(place.size) for place in places[name])
            copies.setdefault(user, {})[node], parts = lay_out(name, False, own)
            pieces += parts
    # Tensors that depend on no parameter carry no group: masks, positions, indices, targets.
    moving = {piece.symbol.id for piece in pieces}
    for node in trace.graph.graph.nodes:
        if node.op == "placeholder":
            environment.setdefault(node, unknown(_shape(node)))
        elif node.op == "get_attr":
            environment[node] = _constant(trace, node)
        elif node.op == "call_function":
            environment.update(copies.get(node, {}))
            environment[node] = _call(context, node, environment, moving)
        elif node.op == "output":
            # The loss is what no group may move.
            for source in node.all_input_nodes:
                context.freeze(environment[source], "loss")
    return context, pieces


def _constant(trace: Trace, node: Node) -> Symbol:
    tensor: Any = trace.graph
    for part in str(node.target).split("."):
        tensor = getattr(tensor, part)
    number = float(tensor) if isinstance(tensor, Tensor) and tensor.numel() == 1 and _real(tensor) else None
    return unknown(tuple(tensor.shape), number)


def _real(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.device.type != "meta"


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()


def _call(context: Context, node: Node, environment: dict[Node, Any], moving: set[int]) -> Any:
    if getattr(node.target, "__name__", "") == "getitem":
        return environment[node.args[0]][node.args[1]]  # type: ignore[index]
    args = pytree.tree_map(lambda a: environment[a] if isinstance(a, Node) else a, node.args)
    kwargs = pytree.tree_map(lambda a: environment[a] if isinstance(a, Node) else a, node.kwargs)
    leaves = pytree.tree_leaves((args, kwargs))
    values = [leaf for leaf in leaves if isinstance(leaf, (Symbol, Blocks))]
    name = _name(node)
    inplace = name.endswith("_") and not name.endswith("__")
    call = Call(name.removesuffix("_") if inplace else name, tuple(args), dict(kwargs), _shape(node))
    follows = any(symbol.id in moving for value in values for symbol in symbols(value))
    if follows and call.name not in _SHAPE_ONLY:
        context.data |= {s.id for value in values for s in symbols(value) if s.id not in moving}
        rule = RULES.get(call.name)
        result = rule(context, call) if rule is not None else _opaque(context, call, values, node)
        moving |= {s.id for v in pytree.tree_leaves(result) if not isinstance(v, int) for s in symbols(v)}
    else:
        result = _data(node, call)
    if inplace and isinstance(node.args[0], Node):
        environment[node.args[0]] = result
    return result


def _opaque(context: Context, call: Call, values: list[Value], node: Node) -> Any:
    """An operator without a rule; each of its outputs is unknown."""
    output = context.opaque(call, values)
    outputs = node.meta.get("val")
    if not isinstance(outputs, (tuple, list)):
        return output
    results = [unknown(tuple(o.shape)) if isinstance(o, Tensor) else o for o in outputs]
    for result in results:
        if isinstance(result, Symbol):
            context.freeze(result, call.name)
    return tuple(results)


def _name(node: Node) -> str:
    target = node.target
    schema = getattr(target, "_schema", None)
    if schema is None:
        return str(getattr(target, "__name__", target))
    # Rules speak of torch's own operators: another library's may have the same name and do something else.
    namespace, _, name = str(schema.name).rpartition("::")
    return name if namespace in ("", "aten", "prims") else str(schema.name)


def _data(node: Node, call: Call) -> Any:
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        return tuple(unknown(tuple(v.shape)) if isinstance(v, Tensor) else v for v in value)
    constant = None
    if call.name in ("full", "scalar_tensor") and isinstance(call.args[-1], (int, float)):
        constant = float(call.args[-1])
    elif call.name in ("zeros", "zeros_like", "new_zeros"):
        constant = 0.0
    elif (
        call.args
        and isinstance(call.args[0], Symbol)
        and call.name in ("expand", "_to_copy", "clone", "view")
    ):
        constant = call.args[0].constant
    return unknown(call.shape, constant)
