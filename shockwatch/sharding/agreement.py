"""What all ranks do at a step, they do together or not at all."""

from __future__ import annotations

from shockwatch.sharding.channel import Channel, LostRankError

FAILED, NOT_NOW, READY = 0, 1, 2
"""What a rank can say when a snapshot is due."""


class Agreement:
    """The ranks' common decision at each step that is due; on the main thread, at a step boundary.

    Args:
        channel: of the main threads alone.

    Attributes:
        taken: the last step of which all were ready; -1 before there is one.
        over: whether some rank has failed: nothing is taken any more.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._asked: tuple[int, bool] | None = None
        self.taken = -1
        self.over = False

    def vote(self, step: int, word: int, last: bool = False) -> int:
        """The least that any rank says of ``step``: ``FAILED``, ``NOT_NOW`` or ``READY``.

        A collective, once for each step: who votes a second time is not heard, and ``FAILED`` is for ever.

        Args:
            last: whether this is the end of the run, which asks once more.
        """
        if self.over or (step, last) == self._asked:
            return FAILED if self.over else NOT_NOW
        self._asked = step, last
        try:
            answer = self._channel.least(word)
        except LostRankError:
            answer = FAILED
        if answer == READY:
            self.taken = step
        self.over = answer == FAILED
        return answer
