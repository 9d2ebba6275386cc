"""How the calling thread stands beside the others of the process when cores are scarce."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_NICENESS = 5
# Linux has a niceness for each thread; elsewhere it is that of the whole process.
_PER_THREAD = sys.platform == "linux"


def give_way() -> None:
    """Let the other threads of the process have the core first (Linux; elsewhere nothing happens).

    Where training keeps every core busy, a thread of equal rank would take half of one as long as it computes; this one
    takes a quarter, enough not to fall behind. Needs no privilege.
    """
    if _PER_THREAD:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, min(os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS, 19))


def stand_equal(thread: int) -> None:
    """Undo :func:`give_way` for the thread of that native id, where the system permits it."""
    if _PER_THREAD:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, 0))
