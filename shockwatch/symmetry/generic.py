"""Generic points of parameter space: where a symmetry that holds is one, and nothing holds by accident."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from shockwatch.snapshot import State

_SHARE = 0.3  # size of the noise, in standard deviations of the tensor
# A prime: rows of a matrix start at different places of the repeated noise.
_PERIOD = 65537
_PERIODS = 8  # added at a time


def widened(state: Mapping[str, Tensor]) -> State:
    """``state`` with its floating-point tensors in float64; what is so already is shared."""
    return {n: t.detach().double() if t.is_floating_point() else t.detach() for n, t in state.items()}


def generic_point(state: State, generator: torch.Generator) -> State:
    """``state`` in float64 with a little noise: at zero-initialised weights anything would pass."""
    point: State = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            point[name] = tensor.detach().clone()
            continue
        wide = tensor.detach().double()
        size = wide.std() if wide.numel() > 1 else wide.abs().max()
        size = torch.where(torch.isfinite(size) & (size > 0), size, torch.full_like(size, 0.1))
        noise = torch.randn(wide.shape, generator=generator, dtype=torch.float64).to(wide.device)
        point[name] = torch.nan_to_num(wide) + _SHARE * size * noise
    return point


class GenericPoint:
    """A generic point near ``state``, made tensor by tensor whenever it is asked for: it takes no memory.

    The noise is added in each tensor's own type, so that what only reorders entries can be tried there; it repeats
    after 65,537 entries.

    Args:
        state: trainable parameters and running statistics; referenced, not copied.
        fixed: everything else; read without noise.
    """

    def __init__(self, state: State, fixed: State, seed: int) -> None:
        self._state = {name: tensor.detach() for name, tensor in state.items()}
        self._fixed = {name: tensor.detach() for name, tensor in fixed.items()}
        self._seed = seed
        self._sizes: dict[str, float] = {}

    def bytes(self, name: str) -> int:
        """Size of one tensor in its own type; 0 for what is not part of the point."""
        return self._state[name].numel() * self._state[name].element_size() if name in self._state else 0

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def narrow(self, name: str) -> Tensor:
        """One tensor of the point in its own type, a copy; also of what is fixed."""
        if name in self._fixed:
            return self._fixed[name].clone()
        return self._made(name, self._state[name].dtype)

    def wide(self, name: str) -> Tensor:
        """:meth:`narrow` in float64, where it is a floating-point tensor."""
        if name in self._fixed or name.endswith("running_var"):
            tensor = self.narrow(name)
            return tensor.double() if tensor.is_floating_point() else tensor
        return self._made(name, torch.float64)

    def _made(self, name: str, dtype: torch.dtype) -> Tensor:
        tensor = self._state[name]
        if not tensor.is_floating_point():
            return tensor.clone()
        result = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
        source, target = tensor.reshape(-1), result.view(-1)
        finite = math.isfinite(self._size(name))
        size = self._size(name) if finite else 0.1
        generator = torch.Generator().manual_seed(self._seed + zlib.crc32(name.encode()))
        noise = torch.randn(min(_PERIOD, source.numel()), generator=generator)
        noise = (_SHARE * size * noise).to(tensor.device, tensor.dtype)
        period = max(len(noise), 1)
        # part by part: the sum in the tensor's own type stays in the cache until it is widened
        parts = (torch.split(flat, _PERIODS * period) for flat in (source, target))
        for part, into in zip(*parts, strict=True):
            plain = part if finite else torch.nan_to_num(part)
            whole = len(part) // period * period
            if whole:
                into[:whole].view(-1, period).copy_(plain[:whole].view(-1, period) + noise)
            into[whole:].copy_(plain[whole:] + noise[: len(part) - whole])
        # a variance stays positive
        return result.abs_().add_(0.1) if name.endswith("running_var") else result

    def _size(self, name: str) -> float:
        """Standard deviation of a tensor; 0.1 where it is zero, not finite where an entry is not."""
        if name not in self._sizes:
            tensor = self._state[name]
            size = float(tensor.std() if tensor.numel() > 1 else tensor.abs().sum())
            self._sizes[name] = 0.1 if size == 0 else size
        return self._sizes[name]
