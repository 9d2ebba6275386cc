"""Anderson acceleration of a fixed-point iteration (Anderson 1965; Walker & Ni 2011)."""

from __future__ import annotations

import torch
from torch import Tensor

_MEMORY = 6
_GROWTH = 1.5  # a residual that grows by more than this starts the memory afresh


class Anderson:
    """The next point from pairs ``x, f(x)`` of a map to be iterated to its fixed point.

    Combines the last few pairs so that the residual ``f(x) - x`` is smallest in the least-squares sense: alternating
    closed forms converge linearly, and this takes about the square root of their number of sweeps.
    """

    def __init__(self) -> None:
        self._points: list[Tensor] = []
        self._residuals: list[Tensor] = []
        self._size = float("inf")

    def next(self, point: Tensor, image: Tensor) -> Tensor:
        """Where to evaluate the map next."""
        residual = image - point
        size = float(residual.norm())
        if size > _GROWTH * self._size:
            self._points, self._residuals = [], []
        self._size = size
        self._points = [*self._points, point][-_MEMORY:]
        self._residuals = [*self._residuals, residual][-_MEMORY:]
        if len(self._points) < 2:
            return image
        steps = torch.stack(self._points).diff(dim=0)
        changes = torch.stack(self._residuals).diff(dim=0)
        # pseudo-inverse of the small normal matrix, with the scale of each row taken out
        scale = changes.norm(dim=1)
        # two equal residuals say nothing: a weight of rounding over zero would throw the point to infinity
        scale = torch.where(scale > 0.0, scale, torch.inf)
        unit = changes / scale[:, None]
        weights = torch.linalg.pinv(unit @ unit.T, rtol=1e-12, hermitian=True) @ (unit @ residual) / scale
        following: Tensor = image - weights @ (steps + changes)
        return following
