"""A state with its tensors side by side in one buffer, equal layers in one stack each."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from shockwatch.snapshot import State


class Packed(dict[str, Tensor]):
    """Tensors by name; those of a layout are views into one buffer.

    Attributes:
        stacks: the same memory by the names that stacked pieces use: a stack of equal layers is one tensor.
        flat: the trainable parameters, one vector in the order of the layout; None where types or devices differ.
        layout: where they lie.
        shared: names of the tensors that are still those of the state it was made from.
    """

    layout: Layout
    shared: tuple[str, ...]
    stacks: State
    flat: Tensor | None

    def __reduce__(self) -> tuple[Any, ...]:
        # saved or copied it is a plain dictionary, which loads with weights_only=True
        return OrderedDict, (), None, None, iter(self.items())

    def minus(self, other: Packed) -> Tensor | None:
        """The difference of the trainable parameters as one vector; None where they do not lie alike."""
        if self.layout is not other.layout or self.flat is None or other.flat is None:
            return None
        return self.flat - other.flat


class Layout:
    """Which tensors go into the buffer, in which order.

    Args:
        names: trainable parameters.
        others: further tensors that groups move; a state may lack them.
        stacks: names of tensors of one shape, by the name of the stack.
    """

    def __init__(
        self, names: Sequence[str], others: Iterable[str], stacks: Mapping[str, Sequence[str]]
    ) -> None:
        self.stacks = {key: tuple(members) for key, members in stacks.items()}
        stack_of = {name: key for key, members in self.stacks.items() for name in members}
        entries: dict[str, tuple[str, ...]] = {}
        for name in (*names, *others):
            key = stack_of.get(name, name)
            entries[key] = self.stacks.get(key, (name,))
        trainable = set(names)
        self.own = {key: members for key, members in entries.items() if members[0] in trainable}
        self._further = {key: members for key, members in entries.items() if members[0] not in trainable}

    def pack(self, state: Mapping[str, Tensor]) -> Packed:
        """A private copy of what the layout holds; all else is shared with ``state``."""
        further = {k: m for k, m in self._further.items() if all(name in state for name in m)}
        packed = self._allocate({**self.own, **further}, state)
        with torch.no_grad():
            names = [name for members in (*self.own.values(), *further.values()) for name in members]
            if names:
                torch._foreach_copy_(
                    [packed[name] for name in names], [state[name].detach() for name in names]
                )
        packed.shared = tuple(name for name in state if name not in packed)
        for name in packed.shared:
            packed[name] = packed.stacks[name] = state[name].detach()
        return packed

    def tangent(self, tangent: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Packed:
        """A private copy of a tangent vector; zero where it says nothing."""
        full = {n: tangent[n] if n in tangent else torch.zeros_like(like[n]) for n in self._members(like)}
        return self.pack(full)

    def _members(self, like: Mapping[str, Tensor]) -> list[str]:
        entries = (*self.own.values(), *self._further.values())
        return [name for members in entries if all(n in like for n in members) for name in members]

    def _allocate(self, entries: Mapping[str, Sequence[str]], like: Mapping[str, Tensor]) -> Packed:
        packed = Packed()
        packed.layout, packed.stacks, packed.flat = self, {}, None
        shapes = {
            key: (len(members), *like[members[0]].shape) if key in self.stacks else tuple(like[key].shape)
            for key, members in entries.items()
        }
        kinds = {(like[m].dtype, like[m].device) for members in entries.values() for m in members}
        if len(kinds) <= 1:
            # a rank without a block has an empty state
            dtype, device = kinds.pop() if kinds else (torch.float64, torch.device("cpu"))
            sizes = [math.prod(shape) for shape in shapes.values()]
            buffer = torch.empty(sum(sizes), dtype=dtype, device=device)
            packed.flat = buffer[: sum(sizes[: len(self.own)])]
            parts = [
                p.view(shape) for p, shape in zip(torch.split(buffer, sizes), shapes.values(), strict=True)
            ]
        else:
            firsts = [like[members[0]] for members in entries.values()]
            parts = [
                torch.empty(shape, dtype=first.dtype, device=first.device)
                for shape, first in zip(shapes.values(), firsts, strict=True)
            ]
        for (key, members), part in zip(entries.items(), parts, strict=True):
            packed.stacks[key] = part
            views = part.unbind(0) if key in self.stacks else (part,)
            packed.update(zip(members, views, strict=True))
        return packed
