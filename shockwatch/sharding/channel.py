"""A process group of our own: nothing that is said there can come between the collectives of training."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class LostRankError(RuntimeError):
    """Another rank has given up, or did not come in time."""


class Channel:
    """Collectives on the CPU (gloo), for one thread of every rank.

    Making it is a collective itself: every rank makes its channels on the main thread in the same order. A rank that
    fails calls :meth:`abort`; the others, wherever they wait, then get a :class:`LostRankError` at once.

    Args:
        timeout: seconds a rank waits for the others.

    Attributes:
        rank: of this process.
        size: number of ranks.
    """

    def __init__(self, timeout: float) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self.rank: int = dist.get_rank(self._group)
        self.size: int = dist.get_world_size(self._group)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, the same on each, bit for bit."""
        total = values.detach().to("cpu", copy=True)
        self._run(lambda group: dist.all_reduce(total, group=group))
        return total

    def total(self, value: float) -> float:
        """The sum of one number."""
        return float(self.sum(torch.tensor(value, dtype=torch.float64)))

    def least(self, value: int) -> int:
        """The smallest of one integer of each rank."""
        result = torch.tensor(value)
        self._run(lambda group: dist.all_reduce(result, dist.ReduceOp.MIN, group=group))
        return int(result)

    def first(self, values: Tensor) -> Tensor:
        """The values of rank zero."""
        result = values.detach().to("cpu", copy=True)
        self._run(lambda group: dist.broadcast(result, 0, group=group))
        return result

    def hand_out(self, thing: Any) -> Any:
        """What rank zero holds, a picklable object."""
        box = [thing]
        self._run(lambda group: dist.broadcast_object_list(box, 0, group=group, device=torch.device("cpu")))
        return box[0]

    def gather(self, thing: Any) -> list[Any]:
        """What each rank holds, in order."""
        things: list[Any] = [None] * self.size
        self._run(lambda group: dist.all_gather_object(things, thing, group=group))
        return things

    def exchange(self, sent: Tensor, sizes: Sequence[int], expected: Sequence[int]) -> Tensor:
        """Send ``sizes[k]`` of the bytes to rank ``k``, in order; returns ``expected[k]`` from each."""
        received = torch.empty(sum(expected), dtype=torch.uint8)
        self._run(
            lambda group: dist.all_to_all_single(received, sent, list(expected), list(sizes), group=group)
        )
        return received

    @property
    def left(self) -> bool:
        """Whether this rank says and hears nothing more."""
        return self._group is None

    def abort(self) -> None:
        """Leave: this rank says and hears nothing more. Whoever waits for it stops waiting. From any thread."""
        group, self._group = self._group, None
        if group is not None:
            try:
                # newer torch can call back a thread of ours that is waiting
                getattr(group, "abort", lambda: None)()
                dist.destroy_process_group(group)
            except (RuntimeError, ValueError, AssertionError):
                # the run has destroyed all groups before
                pass

    def _run(self, collective: Any) -> None:
        if self._group is None:
            raise LostRankError("this rank has left")
        try:
            collective(self._group)
        except Exception as error:
            self.abort()
            raise LostRankError(f"another rank has given up or is late ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
