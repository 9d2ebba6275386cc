"""Equal layers as one: their tensors in stacks, and the groups of all of them as one group with one more axis.

A transformer's layers carry the same groups on tensors of the same shapes. Closed forms are batched over heads and
units anyway; with the layer as one more of their axes, a pass costs as many operations as one layer has groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from shockwatch.symmetry.axes import Atom
from shockwatch.symmetry.groups import SymmetryGroup
from shockwatch.symmetry.pieces import Narrow, Piece, Step
from shockwatch.symmetry.values import Symbol

_Place = tuple[str, int]

_LABELS = ("name", "evidence", "approximate", "residual", "layers")


class Stacking:
    """Stacks in which every group either lives in one layer, with its like in all others, or treats all layers alike.

    Args:
        groups: those that balance, turn or project.
        shapes: of all tensors, by name.

    Attributes:
        stacks: names of the stacked tensors, by the name of the stack.
        groups: what acts on stacks, each with the groups it stands for, in the order of its layers.
    """

    def __init__(self, groups: Sequence[SymmetryGroup], shapes: Mapping[str, Sequence[int]]) -> None:
        classes: dict[tuple[str, tuple[int, ...]], dict[int, str]] = {}
        for name, shape in shapes.items():
            if (place := _template(name)) is not None:
                classes.setdefault((place[0], tuple(shape)), {})[place[1]] = name
        candidates = sorted((key for key, members in classes.items() if len(members) > 1), key=str)
        # one class for each template: a stack is named by it
        self._numbers: dict[str, dict[int, str]] = {
            template: dict(sorted(classes[template, shape].items())) for template, shape in candidates
        }
        while broken := self._broken(groups):
            self._numbers = {k: members for k, members in self._numbers.items() if k not in broken}
        self.stacks = {key: tuple(members.values()) for key, members in self._numbers.items()}
        self._layers: dict[tuple[int, ...], Atom] = {}
        self._lifted: dict[int, tuple[Piece, Piece]] = {}
        self.groups = self._grouped(groups)

    # -- which stacks -----------------------------------------------------------------------------

    def _where(self) -> dict[str, _Place]:
        return {n: (key, number) for key, members in self._numbers.items() for number, n in members.items()}

    def _families(
        self, groups: Sequence[SymmetryGroup]
    ) -> tuple[dict[Hashable, dict[int, SymmetryGroup]], list[SymmetryGroup]]:
        """Groups of one layer by their form and the number of the layer, and those that see several layers."""
        where = self._where()
        families: dict[Hashable, dict[int, SymmetryGroup]] = {}
        across: list[SymmetryGroup] = []
        for group in groups:
            places = [where[name] for name in group.parameters if name in where]
            if not places:
                continue
            inside = len(places) == len(group.parameters) and len({number for _, number in places}) == 1
            if inside and group.can_stack:
                families.setdefault(_form(group, where), {})[places[0][1]] = group
            else:
                across.append(group)
        return families, across

    def _broken(self, groups: Sequence[SymmetryGroup]) -> set[str]:
        where = self._where()
        families, across = self._families(groups)
        broken: set[str] = set()
        for members in families.values():
            keys = {where[name][0] for name in next(iter(members.values())).parameters}
            if any(set(members) != set(self._numbers[key]) for key in keys):
                broken |= keys
        for group in across:
            if self._pooled_parts(group, where) is None:
                broken |= {where[name][0] for name in group.parameters if name in where}
        return broken

    def _pooled_parts(
        self, group: SymmetryGroup, where: Mapping[str, _Place]
    ) -> list[tuple[Any, ...]] | None:
        """The parts of a group that sees several layers, one for all layers; None if they are not alike."""
        kept: dict[Hashable, tuple[tuple[Any, ...], set[int]]] = {}
        for part in group.parts():
            pieces = [p for p in part if isinstance(p, Piece)]
            places = {where.get(p.name, (p.name, -1)) for p in pieces}
            numbers = {number for _, number in places}
            if len(numbers) > 1:
                return None
            form = _shape_of(part, where, {})
            kept.setdefault(form, (part, set()))[1].update(numbers)
        for part, numbers in kept.values():
            for p in part:
                if (
                    isinstance(p, Piece)
                    and p.name in where
                    and numbers != set(self._numbers[where[p.name][0]])
                ):
                    return None
        return [part for part, _ in kept.values()] or None

    # -- the groups on stacks ---------------------------------------------------------------------

    def _grouped(
        self, groups: Sequence[SymmetryGroup]
    ) -> list[tuple[SymmetryGroup, tuple[SymmetryGroup, ...]]]:
        where = self._where()
        families, across = self._families(groups)
        family_of = {id(g): members for members in families.values() for g in members.values()}
        pooled = {id(group) for group in across}
        result: list[tuple[SymmetryGroup, tuple[SymmetryGroup, ...]]] = []
        for group in groups:
            if id(group) in pooled:
                parts = self._pooled_parts(group, where)
                assert parts is not None
                result.append((group.pooled([self._lift(part) for part in parts]), (group,)))
            elif (members := family_of.get(id(group))) is None:
                result.append((group, (group,)))
            else:
                ordered = tuple(members[number] for number in sorted(members))
                if ordered[0] is group:
                    layer = self._layer(tuple(sorted(members)))
                    fields = {
                        f.name: self._lift(getattr(group, f.name))
                        for f in dataclasses.fields(group)
                        if f.name not in _LABELS
                    }
                    lifted = dataclasses.replace(group, **fields, layers=layer.size)
                    result.append((lifted.stacked(layer), ordered))
        return result

    def _layer(self, numbers: tuple[int, ...]) -> Atom:
        return self._layers.setdefault(numbers, Atom(len(numbers)))

    def _lift(self, value: Any) -> Any:
        """``value`` with every piece of a first layer replaced by that of its stack."""
        if isinstance(value, Piece):
            return self._lifted_piece(value)
        if isinstance(value, tuple):
            return tuple(self._lift(part) for part in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(
                value, **{f.name: self._lift(getattr(value, f.name)) for f in dataclasses.fields(value)}
            )
        return value

    def _lifted_piece(self, piece: Piece) -> Piece:
        place = self._where().get(piece.name)
        if place is None:
            return piece
        if id(piece) not in self._lifted:
            layer = self._layer(tuple(self._numbers[place[0]]))
            symbol = Symbol(((layer,), *piece.symbol.dims))
            steps = tuple(dataclasses.replace(step, axis=step.axis + 1) for step in piece.steps)
            self._lifted[id(piece)] = (piece, Piece(place[0], piece.trainable, symbol, steps, stacked=True))
        return self._lifted[id(piece)][1]


def _template(name: str) -> _Place | None:
    """The name with its first number left out, and that number."""
    parts = name.split(".")
    for k, part in enumerate(parts):
        if part.isdigit():
            return ".".join([*parts[:k], "*", *parts[k + 1 :]]), int(part)
    return None


def _form(group: SymmetryGroup, where: Mapping[str, _Place]) -> Hashable:
    """All that a group's action depends on, but for the number of its layer."""
    numbers: dict[Atom, int] = {}
    fields = [f.name for f in dataclasses.fields(group) if f.name not in _LABELS]
    return (type(group), *(_shape_of(getattr(group, name), where, numbers) for name in fields))


def _shape_of(value: Any, where: Mapping[str, _Place], numbers: dict[Atom, int]) -> Hashable:
    if isinstance(value, Piece):
        stack = where.get(value.name, (value.name, 0))[0]
        atoms = tuple(_shape_of(atom, where, numbers) for atom in value.atoms)
        return (stack, value.steps, tuple(_index(s) for s in value.steps), value.trainable, atoms)
    if isinstance(value, Atom):
        root = value.root()
        return (root.size, numbers.setdefault(root, len(numbers)))
    if isinstance(value, tuple):
        return tuple(_shape_of(part, where, numbers) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return (type(value), *(_shape_of(getattr(value, f.name), where, numbers) for f in fields))
    return value if isinstance(value, Hashable) else id(value)


def _index(step: Step) -> int:
    return step.index if isinstance(step, Narrow) else -1
