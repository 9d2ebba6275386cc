"""The number of OpenMP threads of the calling thread alone."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

_RUNTIMES = ("libgomp", "libomp", "libiomp")


def use_one_thread() -> bool:
    """Let the calling thread compute on one core; the other threads keep their number.

    ``torch.set_num_threads`` would change the whole process (and MKL with it); the OpenMP runtime keeps
    the number per thread. Best effort: where no runtime is found, nothing happens.

    Returns:
        Whether a runtime was found and told.
    """
    # torch sets a new thread's number at its first parallel region, and would undo ours: let it do so now
    torch.get_num_threads()
    told = False
    for path in _loaded_runtimes():
        try:
            ctypes.CDLL(path).omp_set_num_threads(ctypes.c_int(1))
        except (OSError, AttributeError):
            continue
        told = True
    return told


def _loaded_runtimes() -> list[str]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    return sorted(path for path in paths if Path(path).name.startswith(_RUNTIMES))
