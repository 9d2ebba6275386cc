"""The loss on the quotient, seen from one canonical point: value, gradient and curvature."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class ReducedLoss(Protocol):
    """The reduced loss near one canonical point, in flat horizontal coordinates of length ``dim``.

    Vectors are 1-D tensors of the parameters' dtype (float32 or float64). ``P`` is the horizontal
    projector, ``H`` the Euclidean Hessian at the canonical point (theory.md 3).
    """

    dim: int

    def gradient(self) -> Tensor:
        """``P grad L`` at the point, shape ``(dim,)``. Cached."""
        ...

    def hvp(self, vector: Tensor) -> Tensor:
        """``P H v`` for a horizontal ``v``, shape ``(dim,)``: ``P H P v``. Costs about two gradients."""
        ...

    def loss(self, displacement: Tensor | None = None) -> float:
        """``L(q + displacement)``; one forward pass. ``None`` is the point itself."""
        ...

    def project(self, vector: Tensor) -> Tensor:
        """``P v``, shape ``(dim,)``."""
        ...
