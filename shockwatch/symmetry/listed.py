"""Lists of equal modules that work side by side, and the tensors that may tell their members apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from torch import Tensor
from torch.fx import Node

from shockwatch.symmetry.axes import Atom, Axis
from shockwatch.symmetry.groups import ListPermutation, Permutation
from shockwatch.symmetry.pieces import Piece
from shockwatch.symmetry.values import Symbol
from shockwatch.tracing import Trace

_Members = dict[int, dict[str, str]]


def candidates(trace: Trace, tensors: Mapping[str, Tensor]) -> Iterator[list[ListPermutation]]:
    """For each list of modules, permutations of its members, alone or with one other module's axis.

    At most one of them can hold, the first that does is to be taken.
    """
    lists: dict[str, _Members] = {}
    for name in tensors:
        parts = name.split(".")
        for k, part in enumerate(parts[:-1]):
            if part.isdigit():
                members = lists.setdefault(".".join(parts[:k]), {})
                members.setdefault(int(part), {})[".".join(parts[k + 1 :])] = name
    graph = _Graph(trace)
    trainable = {name: tensors[name] for name in trace.trainable}
    for prefix, members in lists.items():
        if _equal(members, trainable) and graph.side_by_side(members):
            yield list(_choices(prefix, members, trainable))


def _equal(members: _Members, trainable: Mapping[str, Tensor]) -> bool:
    if len(members) < 2 or sorted(members) != list(range(len(members))):
        return False
    first = members[0]
    return all(
        set(member) == set(first)
        and all(n in trainable and trainable[n].shape == trainable[first[s]].shape for s, n in member.items())
        for member in members.values()
    )


def _choices(prefix: str, members: _Members, trainable: Mapping[str, Tensor]) -> Iterator[ListPermutation]:
    count = len(members)
    families = tuple(tuple(members[k][suffix] for k in range(count)) for suffix in members[0])
    inside = {name for family in families for name in family}
    alone = Permutation(prefix, (), f"{count} equal modules side by side", axis=Atom(count))
    yield ListPermutation(alone, families, prefix)
    parent = prefix.rpartition(".")[0]
    modules: dict[str, list[str]] = {}
    # one index for each member, or what its members wrote side by side
    sizes = {count, *(count * size for family in families for size in trainable[family[0]].shape)}
    for name, tensor in trainable.items():
        if name not in inside and name.startswith(parent) and _dimensions(tensor, sizes):
            modules.setdefault(name.rpartition(".")[0], []).append(name)
    for names in modules.values():
        # rows or columns: a router may be written either way
        for last in (False, True):
            dims = [_dimensions(trainable[name], sizes)[-1 if last else 0] for name in names]
            if last and dims == [_dimensions(trainable[name], sizes)[0] for name in names]:
                continue
            unit = Atom(count)
            pieces = tuple(_piece(n, trainable[n], d, unit) for n, d in zip(names, dims, strict=True))
            why = f"{count} equal modules side by side"
            inner = Permutation(f"{prefix}-{'-'.join(names)}", pieces, why, axis=unit)
            yield ListPermutation(inner, families, prefix)


def _dimensions(tensor: Tensor, sizes: Set[int]) -> list[int]:
    return [d for d, size in enumerate(tensor.shape) if size in sizes]


def _piece(name: str, tensor: Tensor, dim: int, unit: Atom) -> Piece:
    dims: list[Axis] = [(Atom(size),) if size > 1 else () for size in tensor.shape]
    width = tensor.shape[dim] // unit.size
    dims[dim] = (unit, Atom(width)) if width > 1 else (unit,)
    return Piece(name, True, Symbol(tuple(dims)), ())


class _Graph:
    """Which modules of a step work on what others have made."""

    def __init__(self, trace: Trace) -> None:
        inputs = [node for node in trace.graph.graph.nodes if node.op == "placeholder"]
        self._inputs = dict(zip((*trace.trainable, *trace.fixed), inputs, strict=False))

    def side_by_side(self, members: _Members) -> bool:
        """Whether no tensor of the second member meets, at its first use, what the first member has made."""
        if any(name not in self._inputs for member in members.values() for name in member.values()):
            return False
        made = self._descendants([self._inputs[name] for name in members[0].values()])
        return not any(
            other in made
            for name in members[1].values()
            for use in self._first_uses(self._inputs[name])
            for other in use.all_input_nodes
        )

    def _descendants(self, nodes: list[Node]) -> set[Node]:
        seen: set[Node] = set()
        while nodes:
            node = nodes.pop()
            if node not in seen:
                seen.add(node)
                nodes += node.users
        return seen

    def _first_uses(self, node: Node) -> Iterator[Node]:
        for user in node.users:
            if len(user.all_input_nodes) > 1:
                yield user
            else:
                yield from self._first_uses(user)
