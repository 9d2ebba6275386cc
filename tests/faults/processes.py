"""Python in other processes, from the same sources."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**extra: str) -> dict[str, str]:
    """That of this process, without what a rank of an earlier test left behind."""
    kept = {k: v for k, v in os.environ.items() if k not in {"LOCAL_RANK", "MASTER_PORT", "WORLD_SIZE"}}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | extra


def start(code: str, folder: Path, name: str = "run.py", **extra: str) -> subprocess.Popen[str]:
    """Run ``code``, which finds its folder as ``ROOT``."""
    script = folder / name
    script.write_text(f"ROOT = {str(folder)!r}\n{code}")
    return subprocess.Popen(
        [sys.executable, str(script)],
        env=environment(**extra),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 240.0) -> tuple[str, str]:
    """Wait for it, and fail with what it said unless it ended well."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it hangs:\n{out}\n{err}") from None
    assert process.returncode == 0, f"exit {process.returncode}:\n{out}\n{err}"
    return out, err


def run(code: str, folder: Path, **extra: str) -> tuple[str, str]:
    """``start`` and ``finish``."""
    return finish(start(code, folder, **extra))


def run_ranks(code: str, folder: Path) -> None:
    """Run ``code`` as two ranks, which know theirs as ``RANK``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        start(
            f"RANK = {rank}\n{code}", folder, f"rank{rank}.py", LOCAL_RANK=str(rank), RANK=str(rank), **common
        )
        for rank in (0, 1)
    ]
    for rank in ranks:
        finish(rank)
