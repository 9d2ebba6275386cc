"""How the sessions of several ranks keep together, where each rank holds a part of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from shockwatch.engine.sharded import ShardedEngine
from shockwatch.engine.watched_step import WatchedStep
from shockwatch.session import LossFunction, Settings
from shockwatch.sharding import Agreement, Channel
from shockwatch.sharding.agreement import FAILED, NOT_NOW, READY
from shockwatch.shards import Shard, Shards
from shockwatch.snapshot import State

MEETING_TIMEOUT = 300.0
"""Seconds a main thread waits for the others at a step that is due; then nobody takes snapshots any more."""

ANALYSIS_TIMEOUT = 1800.0
"""Seconds a background thread waits for the others: rank zero may be measuring symmetries."""


class Ranks:
    """This rank's part in a run whose parameters are shared out.

    Making it is a collective of all ranks, on the main thread. It makes two process groups of its own (gloo), one for
    the main threads, which agree there on what is taken, and one for the background threads: training's own
    collectives never meet ours. They live as long as the process, or until a rank fails and leaves them.

    Attributes:
        first: whether this is rank zero, which speaks for all.
    """

    def __init__(self) -> None:
        self._agreement = Agreement(Channel(MEETING_TIMEOUT))
        self._channel = Channel(ANALYSIS_TIMEOUT)
        self.first = self._channel.rank == 0
        self._shards: Shards | None = None
        self._seen, self._fresh = 0, True

    def find(self, module: nn.Module) -> Shards:
        """What of ``module`` lies here.

        Raises:
            ShardError: if its parameters are shared out in a way that is not read.
        """
        self._shards = Shards(module)
        return self._shards

    def tensors(self) -> State:
        """What lies here, live."""
        assert self._shards is not None
        return self._shards.tensors()

    @property
    def lost(self) -> bool:
        """Whether this rank has left the analysis."""
        return self._channel.left

    def leave(self) -> None:
        """End this rank's part in the analysis; the background threads of the others stop waiting for it."""
        self._channel.abort()

    @property
    def over(self) -> bool:
        """Whether a rank has failed, so that nothing is taken any more."""
        return self._agreement.over

    def begin(self, step: int, fresh: bool) -> None:
        """Count from ``step``; a ``fresh`` run has a snapshot at its first step."""
        self._seen, self._fresh = step, fresh

    def due(self, step: int, every: int) -> bool:
        """Whether a snapshot is due after ``step``: known to every rank without asking."""
        before, self._seen = self._seen, max(step, self._seen)
        first, self._fresh = self._fresh, self._fresh and step <= before
        return step > before and (first or step // every > before // every)

    def agree(self, step: int, ready: bool | None, last: bool = False) -> bool:
        """Whether every rank can take the snapshot of ``step``: a collective of the main threads, at a step boundary.

        Args:
            ready: whether this one can; None: it has failed and never will again, which ends it for all.
            last: at the end of the run.
        """
        word = FAILED if ready is None else READY if ready else NOT_NOW
        answer = self._agreement.vote(step, word, last)
        if answer == FAILED:
            self.leave()
        return answer == READY

    def excuse(self, step: int, last: bool = False) -> None:
        """Be at the meeting of ``step`` even if this rank's watch has failed; no more than that if it was there."""
        if not last or self._agreement.taken != step:
            self.agree(step, None, last)

    def analysis(
        self,
        step: Callable[[Mapping[str, Shard]], tuple[nn.Module, LossFunction | None]],
        batch: Any,
        settings: Settings,
    ) -> ShardedEngine:
        """The analysis of this rank, once :meth:`find` has been called; no collective.

        Args:
            step: gives the model as it was before it was shared out, on the CPU, and its loss function; called on rank
                zero only, which traces it.
            batch: a private copy of a batch.
            settings: of the session.
        """
        assert self._shards is not None
        layout = self._shards.layout
        traced = None
        if self.first:
            model, loss_fn = step(layout)
            batch = pytree.tree_map_only(Tensor, lambda tensor: tensor.cpu(), batch)
            traced = WatchedStep.build(
                model, loss_fn, batch, settings.seed, probe=False, declared=settings.symmetries
            )
        return ShardedEngine(
            layout,
            self._channel,
            traced,
            settings.horizon,
            settings.seed,
            mean_run_length=settings.mean_run_length,
        )
