"""A random projection that keeps lengths, and takes no memory of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shockwatch.errors import require_positive_int

_CHUNK = 1 << 18


class RandomProjection:
    """A linear map ``R^length -> R^size`` with ``E |S x|^2 = |x|^2`` (Johnson & Lindenstrauss 1984).

    Entry ``i`` goes, with a random sign, to place ``i mod size``: ``|S x|^2`` has a standard deviation of at most
    ``sqrt(2 / size) |x|^2`` for an ``x`` whose large entries do not share a place; ``size`` is made prime, for the rows
    and columns of tensors not to line up with the places. The signs come from the seed, chunk by chunk. A ``size`` that
    is not smaller than ``length`` keeps the vector as it is.

    Args:
        length: of the vectors.
        size: most numbers to keep.
        seed: of the signs.

    Attributes:
        size: numbers that are kept.

    Raises:
        ValueError: if ``length`` or ``size`` is no positive integer.
    """

    def __init__(self, length: int, size: int, seed: int) -> None:
        self._length = require_positive_int("length", length)
        self._whole = require_positive_int("size", size) >= length
        self.size = length if self._whole else _prime(size)
        self._seed = seed

    def __call__(self, vector: Tensor) -> Tensor:
        """``S x``, shape ``(size,)``, in the type of ``x``, or float32 where that is narrower.

        Args:
            vector: shape ``(length,)``.
        """
        if tuple(vector.shape) != (self._length,):
            raise ValueError(f"vector={tuple(vector.shape)}: must have shape ({self._length},)")
        wide = vector.dtype if vector.dtype == torch.float64 else torch.float32
        if self._whole:
            return vector.detach().to(wide, copy=True)
        total = torch.zeros(self.size, dtype=torch.float64, device=vector.device)
        draws = np.random.PCG64(self._seed)
        rows = max(1, _CHUNK // self.size)
        for part in torch.split(vector.detach(), rows * self.size):
            bits = np.unpackbits(draws.random_raw(-(-len(part) // 64)).view(np.uint8), count=len(part))
            signs = torch.from_numpy(bits).to(vector.device, wide).mul_(2).sub_(1)
            signed = signs.mul_(part)
            whole = len(part) // self.size * self.size
            total += signed[:whole].view(-1, self.size).sum(0)
            total[: len(part) - whole] += signed[whole:]
        return total.to(wide)


def _prime(most: int) -> int:
    """The largest prime that is not above ``most``; 1 below two."""
    candidate = most
    while candidate > 1 and any(candidate % k == 0 for k in range(2, int(candidate**0.5) + 1)):
        candidate -= 1
    return candidate
