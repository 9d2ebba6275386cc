"""The vertical space, vector by vector: what projectors and dimensions are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from shockwatch.symmetry import Quotient
from shockwatch.symmetry.groups import ContinuousGroup


def generators(quotient: Quotient, state: dict[str, Tensor]) -> Tensor:
    """All generators at ``state``, one in each row."""
    rows = []
    for group in quotient.groups:
        if not isinstance(group, ContinuousGroup):
            continue
        like = group.adjoint(state, {n: torch.zeros_like(state[n]) for n in quotient.names})
        for k in range(like.numel()):
            unit = torch.zeros(like.numel(), dtype=torch.float64)
            unit[k] = 1
            tangent = {n: torch.zeros_like(state[n]) for n in quotient.names}
            group.generate_(unit.reshape(like.shape), state, tangent)
            rows.append(quotient.flatten(tangent))
    return torch.stack(rows) if rows else torch.zeros(0, 0, dtype=torch.float64)
