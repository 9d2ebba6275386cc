"""Weight decay as a part of the reduced loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shockwatch.curvature.reduced import ReducedLoss
from shockwatch.errors import require_float
from shockwatch.snapshot import State
from shockwatch.symmetry import Quotient

_UNDECAYED = (
    "weight decay is not part of the watched loss: it differs between parameter groups, or the canonical form is not "
    "the point of least norm (weights read through a norm, where it changes the effective learning rate; biases that "
    "move along the stream)."
)


class DecayedLoss:
    """``L + w |theta|^2 / 2`` on the quotient: what an optimiser with coupled weight decay ``w`` goes down.

    The term is not invariant; on the quotient it stands for its minimum over the orbit. The canonical point is that
    minimum (Kempf & Ness 1979; theory.md 2), so the reduced term is ``w |q|^2 / 2`` there, for two linear maps ``w``
    times the nuclear norm of their product. Its gradient is ``w q``, which is horizontal, and its Riemannian Hessian
    ``w`` times the identity: a horizontal direction does not move the minimiser within the orbit to first order.

    Away from the point, ``loss`` takes ``w |q + displacement|^2 / 2``: an upper bound, equal to second order.

    Args:
        reduced: ``L`` at the canonical ``point``.
        rate: ``w``, at least 0.

    Raises:
        ValueError: if ``rate`` is out of range, or the canonical point is not one of minimum norm.
    """

    def __init__(self, reduced: ReducedLoss, quotient: Quotient, point: State, rate: float) -> None:
        self._rate = require_float("rate", rate, 0.0)
        if not has_minimum_norm(quotient):
            found = next(f"{group.kind} {group.name}" for group in quotient.groups if not group.least_norm)
            raise ValueError(
                f"quotient: has {found}, whose canonical form is not the point of least norm on the orbit; must have "
                "none such"
            )
        self._inner = reduced
        self._base = quotient.flatten(point)
        self.dim = reduced.dim
        self._gradient = reduced.gradient() + self._rate * reduced.project(self._base)

    def gradient(self) -> Tensor:
        """``P grad L + w q``, shape ``(dim,)``."""
        return self._gradient

    def hvp(self, vector: Tensor) -> Tensor:
        """``P H v + w v`` for a horizontal ``v``, shape ``(dim,)``."""
        return self._inner.hvp(vector) + self._rate * vector

    def loss(self, displacement: Tensor | None = None) -> float:
        """``L(q + displacement) + w |q + displacement|^2 / 2``."""
        moved = self._base if displacement is None else self._base + displacement
        return self._inner.loss(displacement) + 0.5 * self._rate * float(torch.dot(moved, moved))

    def project(self, vector: Tensor) -> Tensor:
        """``P v``, shape ``(dim,)``."""
        return self._inner.project(vector)


def has_minimum_norm(quotient: Quotient) -> bool:
    """Whether the canonical point has the smallest norm on its orbit: each group says so of its slice.

    Not under scale invariance (weights read through a norm only): there the infimum is at zero, the slice is unit norm
    by convention, and weight decay moves along the orbit; it changes the effective learning rate, not the reduced loss.
    Nor where gains are made equal for a stream to turn, or a bias is moved along the stream until it is zero: there
    ``w |q|^2 / 2`` is an upper bound of the reduced term.
    """
    return all(group.least_norm for group in quotient.groups)


def with_weight_decay(
    reduced: ReducedLoss, quotient: Quotient, point: State, rate: float
) -> tuple[ReducedLoss, tuple[str, ...]]:
    """The loss that training goes down, and what has to be said: ``reduced`` itself where the term has no meaning.

    Args:
        rate: as :func:`shockwatch.clock.coupled_weight_decay` has it; NaN where parameter groups differ.
    """
    if rate == 0.0:
        return reduced, ()
    if math.isnan(rate) or not has_minimum_norm(quotient):
        return reduced, (_UNDECAYED,)
    return DecayedLoss(reduced, quotient, point, rate), ()
