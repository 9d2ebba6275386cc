"""How much memory the machine has left."""

from __future__ import annotations

import os
from pathlib import Path


def available_bytes() -> int:
    """Memory that can be taken without swapping; where the system does not say, its free pages."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 8 << 30
