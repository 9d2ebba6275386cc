"""Every rank sends what it holds of a tensor to the rank that watches the tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shockwatch.sharding.channel import Channel
from shockwatch.shards import Shard, ShardError
from shockwatch.snapshot import State


class Exchange:
    """Whole tensors for their owners, from the parts on all ranks: one collective for each snapshot.

    A rank gets the tensors it owns and no others. Besides them it takes, for the duration of the exchange, the memory
    of what it sends and of what it receives.

    Args:
        layouts: what lies on each rank, by name.
        owner: the rank of each tensor that is to be made whole.

    Raises:
        ShardError: if the parts of a tensor do not add up.
    """

    def __init__(
        self, layouts: Sequence[Mapping[str, Shard]], owner: Mapping[str, int], channel: Channel
    ) -> None:
        self._channel = channel
        self._owner = dict(owner)
        ranks = range(channel.size)
        self._sent: list[list[tuple[str, Shard]]] = [[] for _ in ranks]
        self._received: list[list[tuple[str, Shard]]] = [[] for _ in ranks]
        for name, target in owner.items():
            for source, shard in _sources(name, layouts, target):
                if source == channel.rank:
                    self._sent[target].append((name, shard))
                if target == channel.rank:
                    self._received[source].append((name, shard))

    def __call__(self, local: State) -> State:
        """The tensors this rank owns, whole, from what lies here and on the others.

        Args:
            local: the part of each tensor that lies here.
        """
        parts = [_bytes(local[name]) for entries in self._sent for name, _ in entries]
        sent = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)
        sizes, expected = ([_size(entries) for entries in side] for side in (self._sent, self._received))
        received = self._channel.exchange(sent, sizes, expected)
        del sent
        whole: State = {}
        start = 0
        for entries in self._received:
            for name, shard in entries:
                end = start + shard.held * shard.dtype.itemsize
                if name not in whole:
                    whole[name] = torch.empty(shard.shape, dtype=shard.dtype)
                # a view of another type must begin where that type may
                shard.write(whole[name], received[start:end].clone().view(shard.dtype))
                start = end
        return whole


def _sources(name: str, layouts: Sequence[Mapping[str, Shard]], target: int) -> list[tuple[int, Shard]]:
    """The ranks that send their part of a tensor, each part once, the target's own copy before others."""
    order = [target, *(rank for rank in range(len(layouts)) if rank != target)]
    if layouts[target][name].whole:
        return [(target, layouts[target][name])]
    chosen: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, Shard]] = {}
    for rank in order:
        shard = layouts[rank][name]
        if shard.held:
            chosen.setdefault((shard.offsets, shard.sizes), (rank, shard))
    held = sum(shard.held for _, shard in chosen.values())
    if held != layouts[target][name].numel:
        numel = layouts[target][name].numel
        raise ShardError(f"the parts of {name} on all ranks hold {held} entries of {numel}")
    return list(chosen.values())


def _size(entries: Sequence[tuple[str, Shard]]) -> int:
    return sum(shard.held * shard.dtype.itemsize for _, shard in entries)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
