"""What of a module's parameters lies on this rank, where they are shared out (FSDP1, FSDP2, ZeRO-3 of DeepSpeed)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shockwatch.capture import COMPILED_PREFIX
from shockwatch.snapshot import State

_WRAPPERS = (COMPILED_PREFIX, "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


class ShardError(RuntimeError):
    """The parameters are shared out in a way that is not read; the message says which."""


@dataclass(frozen=True)
class Shard:
    """The part of one tensor that lies on this rank, a box in ``frame``.

    Attributes:
        shape: of the whole tensor.
        dtype: its type.
        trainable: whether it is a parameter that training moves.
        frame: the shape in which the part is a box: that of the tensor, or one row of all its entries.
        offsets: where the box begins.
        sizes: how large it is.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    trainable: bool
    frame: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Entries of the whole tensor."""
        return math.prod(self.shape)

    @property
    def held(self) -> int:
        """Entries that lie here."""
        return math.prod(self.sizes)

    @property
    def whole(self) -> bool:
        """Whether all of it lies here."""
        return self.held == self.numel

    @property
    def bytes(self) -> int:
        """Of the whole tensor."""
        return self.numel * self.dtype.itemsize

    def write(self, target: Tensor, part: Tensor) -> None:
        """Put ``part``, what another rank holds of this shard, in its place in the whole tensor ``target``."""
        place = target.view(self.frame)
        for dim, (start, length) in enumerate(zip(self.offsets, self.sizes, strict=True)):
            place = place.narrow(dim, start, length)
        place.copy_(part.view(self.sizes))


class Shards:
    """What of ``module`` lies here, and where to find it at any step.

    Args:
        module: as the strategy left it: the outermost FSDP1 wrapper, or the module whose parameters are DTensors.

    Attributes:
        layout: of every parameter and floating-point buffer, by the name it has in the plain module.

    Raises:
        ShardError: if the parameters are shared out in a way that is not read.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.layout = {name: shard for name, shard, _ in self._entries()}

    def tensors(self) -> State:
        """What lies here, by name: the live tensors, not copies."""
        with torch.no_grad():
            return {name: read() for name, _, read in self._entries()}

    def _entries(self) -> Iterator[tuple[str, Shard, Callable[[], Tensor]]]:
        flat: set[int] = set()
        for prefix, part in self._module.named_modules():
            if (handle := getattr(part, "_handle", None)) is not None and hasattr(handle, "flat_param"):
                flat.update(id(p) for p in handle.flat_param._params or ())
                for name, shard, read in _flat_entries(handle.flat_param):
                    yield plain_name(f"{prefix}.{name}" if prefix else name), shard, read
        for name, parameter in self._module.named_parameters():
            if id(parameter) not in flat:
                yield plain_name(name), *_entry(name, parameter, parameter.requires_grad)
        for name, buffer in self._module.named_buffers():
            if buffer.is_floating_point():
                yield plain_name(name), *_entry(name, buffer, False)


def is_sharded(module: nn.Module) -> bool:
    """Whether some of the parameters of ``module`` are shared out over ranks."""
    tensors = any(_is_dtensor(parameter) or _is_partitioned(parameter) for parameter in module.parameters())
    return tensors or any(hasattr(getattr(m, "_handle", None), "flat_param") for m in module.modules())


def plain_name(name: str) -> str:
    """The name without what ``torch.compile``, FSDP1 and checkpointing wrappers put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _is_dtensor(tensor: Tensor) -> bool:
    return hasattr(tensor, "placements") and hasattr(tensor, "to_local")


def _is_partitioned(tensor: Tensor) -> bool:
    return hasattr(tensor, "ds_tensor") and hasattr(tensor, "ds_shape")


def _partition(tensor: Any, trainable: bool) -> tuple[Shard, Callable[[], Tensor]]:
    """A parameter under ZeRO-3: equal parts of its entries, in the order of the ranks; the last ones may be padded."""
    shape = tuple(tensor.ds_shape)
    frame, part = (math.prod(shape),), tensor.ds_tensor.numel()
    rank = dist.get_rank(tensor.ds_process_group)
    start = min(rank * part, frame[0])
    length = min(part, frame[0] - start)
    shard = Shard(shape, tensor.ds_tensor.dtype, trainable, frame, (start,), (length,))
    return shard, lambda: tensor.ds_tensor.detach().narrow(0, 0, length)


def _entry(name: str, tensor: Any, trains: bool) -> tuple[Shard, Callable[[], Tensor]]:
    if _is_partitioned(tensor):
        return _partition(tensor, trains and tensor.is_floating_point())
    shape, trainable = tuple(tensor.shape), trains and tensor.is_floating_point()
    if not _is_dtensor(tensor):
        shard = Shard(shape, tensor.dtype, trainable, shape, (0,) * len(shape), shape)
        return shard, lambda: tensor.detach()
    if any(type(place).__name__ not in ("Shard", "Replicate") for place in tensor.placements):
        raise ShardError(f"{name} is shared out as {tensor.placements}: only plain shards are read")
    # late: it takes a second to import, and who has a DTensor has it already
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    shard = Shard(shape, tensor.dtype, trainable, shape, tuple(offsets), tuple(sizes))
    return shard, lambda: tensor.to_local().detach()


def _flat_entries(flat: Any) -> Iterator[tuple[str, Shard, Callable[[], Tensor]]]:
    """The original parameters behind one flat parameter of FSDP1."""
    if flat._params is None:
        raise ShardError(
            "FSDP(use_orig_params=False) hides the parameters: only use_orig_params=True is read"
        )
    held = getattr(flat, "_local_shard", flat)
    for name, shape, info, parameter in zip(
        flat._fqns, flat._shapes, flat._shard_param_infos, flat._params, strict=True
    ):
        start, length, offset = 0, 0, 0
        if info.in_shard:
            start, length, offset = info.intra_param_start_idx, info.numel_in_shard, info.offset_in_shard
        frame = (math.prod(shape),)
        shard = Shard(tuple(shape), flat.dtype, parameter.requires_grad, frame, (start,), (length,))

        def read(offset: int = offset, length: int = length) -> Tensor:
            part: Tensor = held.detach().narrow(0, offset, length)
            return part

        yield name, shard, read
