"""The reduced loss at one canonical point, from the traced step and the quotient (theory.md 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shockwatch.snapshot import State
from shockwatch.symmetry import Quotient
from shockwatch.tracing import StepLoss

_SINGLE_ACCURACY = 1e-3  # eigenvalues of a transformer move by 1e-6 from what 1e-4 gives


class CanonicalLoss:
    """``L`` around a canonical point, in flat coordinates: what :class:`shockwatch.curvature.ReducedLoss` asks for.

    ``P grad L`` and ``P H P`` are those of the reduced loss on the quotient: the canonical slice is orthogonal to
    the gradient's normal part, so the second fundamental form drops out.

    Args:
        point: a canonical state, floating-point tensors in the type of the traced step.
        frozen: the tensors of the model that ``point`` lacks.
    """

    def __init__(
        self, quotient: Quotient, loss: StepLoss, point: State, frozen: Mapping[str, Tensor]
    ) -> None:
        self._quotient = quotient
        self._loss = loss
        self._point = point
        self._frozen = dict(frozen)
        self._base = quotient.flatten(point)
        # In single precision the products carry no more; what leaks of the vertical space is second order in it.
        accuracy = None if self._base.dtype == torch.float64 else _SINGLE_ACCURACY
        self._horizontal = quotient.projector(point, tolerance=accuracy)
        self.dim = int(self._base.numel())
        self._value, gradient, self._product = loss.linearize(point, self._frozen)
        self._gradient = self._project_(torch.cat([g.reshape(-1) for g in gradient]))

    def project(self, vector: Tensor) -> Tensor:
        """``P v``, shape ``(dim,)``."""
        return self._project_(vector.clone())

    def _project_(self, vector: Tensor) -> Tensor:
        # the tangent's tensors are views of the vector
        self._horizontal.remove_(self._quotient.unflatten(vector, self._point))
        return vector

    def gradient(self) -> Tensor:
        """``P grad L``, shape ``(dim,)``."""
        return self._gradient

    def hvp(self, vector: Tensor) -> Tensor:
        """``P H v`` for a horizontal ``v``, shape ``(dim,)``."""
        inside = self._quotient.unflatten(vector, self._point)
        image = self._product([inside[name] for name in self._quotient.names])
        return self._project_(torch.cat([part.reshape(-1) for part in image]))

    def loss(self, displacement: Tensor | None = None) -> float:
        """``L(q + displacement)``."""
        if displacement is None:
            return self._value
        moved = self._quotient.unflatten(self._base + displacement, self._point)
        return self._loss.value({**self._point, **moved}, self._frozen)
