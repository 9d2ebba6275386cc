"""Which way a canonical point is turned, in about one bit an entry or less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shockwatch.norms import square_norm
from shockwatch.snapshot import State
from shockwatch.symmetry import Quotient
from shockwatch.symmetry.groups import GeneralLinear, Permutation, Rotation

_COLUMNS = 2  # times the features of a stream are many
_WEIGHTY = 0.01  # share of the squared norm
_FINE = 0.5  # most of the room that bytes may take
_HEADS = 0.7  # most of what is left that goes to heads, where a turn has few columns to be read from
_ZERO = 1e-9  # of the mean size: what is smaller is rounding, and its sign means nothing


class SignFrame:
    """Signs of the entries of a canonical point, which later points are turned to.

    Two canonical points differ by rotations, signs and orders of units, and must be turned alike before they are
    subtracted. The turn of a point towards *any* fixed reference is a function of its orbit, so that no gauge shows;
    where the reference is near, what it leaves of vertical motion is of second order. Signs, at ``sqrt(2 / pi)`` of
    the norm, are near enough where an axis of ``d`` entries has ``n >> d`` columns: they add about ``d / (7 n)`` to the
    square of a displacement. Heavy tensors with few columns, whose signs span another subspace, are kept in bytes.

    Args:
        quotient: of the point.
        point: a canonical state.
        share: most memory, as a share of that of the parameters; what does not fit is left out, evenly.
    """

    def __init__(self, quotient: Quotient, point: Mapping[str, Tensor], share: float) -> None:
        self._bytes: dict[str, tuple[Tensor, float]] = {}
        self._bits: dict[str, tuple[Tensor, float, float]] = {}
        room = share * sum(point[n].numel() * point[n].element_size() for n in quotient.names)
        vectors, heads, others = _watched(quotient, point)
        heavy = [n for n in _heavy(quotient, point) if n in others]
        count = sum(point[n].numel() for n in heavy)
        if count <= _FINE * room:
            self._bytes = {name: _in_bytes(point[name]) for name in heavy}
            others = [n for n in others if n not in heavy]
            room -= count
        for names, most in ((vectors, 1.0), (heads, _HEADS if others else 1.0), (others, 1.0)):
            count = sum(point[n].numel() for n in names)
            density = min(1.0, most * 8 * room / max(count, 1))
            self._bits.update({name: (*_signs(point[name], density), density) for name in names})
            room -= density * count / 8

    def reference(self, like: Mapping[str, Tensor]) -> State:
        """A state to turn others like this one to; zero where nothing is known."""
        state = {name: torch.zeros_like(tensor) for name, tensor in like.items()}
        for name, (numbers, scale) in self._bytes.items():
            state[name] = (scale * numbers.to(like[name])).reshape(like[name].shape)
        for name, (bits, scale, density) in self._bits.items():
            places = _places(like[name].numel(), density)
            signs = torch.from_numpy(np.unpackbits(bits.numpy(), count=len(places))).to(like[name])
            state[name].view(-1)[places.to(signs.device)] = scale * (2 * signs - 1)
        return state

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors."""
        return {kind: {n: list(e) for n, e in vars(self)[kind].items()} for kind in ("_bytes", "_bits")}

    @classmethod
    def of(cls, state: Mapping[str, Mapping[str, Sequence[Any]]]) -> SignFrame:
        """Undo :meth:`state_dict`."""
        frame = object.__new__(cls)
        frame._bytes = {name: (entry[0], float(entry[1])) for name, entry in state["_bytes"].items()}
        frame._bits = {n: (e[0], float(e[1]), float(e[2])) for n, e in state["_bits"].items()}
        return frame


def _watched(quotient: Quotient, point: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Names of trainable tensors that something turns or reorders: gains and biases, heads, all others.

    A gain turns each feature by its own sign: it must be there whole.
    """
    framed = [g for g in quotient.groups if g.has_frame or isinstance(g, Permutation)]
    names = {n for g in framed for n in g.parameters}
    heads = {n for g in framed if isinstance(g, GeneralLinear) for n in g.parameters}
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name in quotient.names:
        if name in names:
            parts[0 if point[name].dim() < 2 else 1 if name in heads else 2].append(name)
    return parts


def _heavy(quotient: Quotient, point: Mapping[str, Tensor]) -> set[str]:
    """Tensors that hold much of the norm in few columns of a stream: their signs span another subspace than they do."""
    total = quotient.norm(point) ** 2
    return {
        name
        for group in quotient.groups
        if isinstance(group, Rotation)
        for name in group.parameters
        if name in point
        and point[name].numel() < _COLUMNS * group.size**2
        and square_norm(point[name]) > _WEIGHTY * total
    }


def _in_bytes(tensor: Tensor) -> tuple[Tensor, float]:
    entries = tensor.detach().reshape(-1)
    scale = float(entries.abs().amax()) / 127 if len(entries) else 0.0
    return (entries / (scale or 1.0)).round().to(torch.int8).cpu(), scale


def _places(count: int, density: float) -> Tensor:
    """Evenly spread indices; the spacing is no integer, so that no row or column is left out."""
    return (torch.arange(int(count * density), dtype=torch.float64) / max(density, 1e-12)).long()


def _signs(tensor: Tensor, density: float) -> tuple[Tensor, float]:
    entries = tensor.detach().reshape(-1)
    scale = float(entries.abs().mean(dtype=torch.float64)) if len(entries) else 0.0
    chosen = entries[_places(len(entries), density).to(entries.device)] > -_ZERO * scale
    return torch.from_numpy(np.packbits(chosen.cpu().numpy())), scale
