"""The loss at the parameters as they are stored, measured in the metric of Adam (Cohen et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shockwatch.curvature.extremes import ritz_error
from shockwatch.curvature.preconditioned import flat_rates, preconditioned
from shockwatch.curvature.ritz import RitzSpace
from shockwatch.snapshot import Moments, State
from shockwatch.tracing import StepLoss

_RANDOM_PRODUCTS = 4  # without them a curvature that has overtaken the one known would not be seen
_KEPT = 2  # vectors that the next point starts from


class AdaptedLoss:
    """Value, gradient and curvature of the loss at one raw point, in flat coordinates of all its parameters.

    Coupled weight decay is part of the loss, the decoupled one is not. A parameter without moments does not move: its
    rate is zero.

    Args:
        loss: of the watched step.
        state: the raw point, parameters and buffers, in the type of the traced step.
        frozen: the tensors of the model that ``state`` lacks.
        moments: of Adam at this point, by parameter.

    Attributes:
        gradient: of the loss, one a parameter, in the order of ``loss.names``.
        moments: in that order.
        rates: :func:`~shockwatch.curvature.adam_rates`, shape ``(dim,)``.
    """

    def __init__(
        self, loss: StepLoss, state: State, frozen: Mapping[str, Tensor], moments: Mapping[str, Moments]
    ) -> None:
        self.loss = loss
        self.state = state
        self.frozen = dict(frozen)
        self.value, self.gradient, self._product = loss.linearize(state, self.frozen)
        self.moments = [
            _like(moments[name], part) if name in moments else None
            for name, part in zip(loss.names, self.gradient, strict=True)
        ]
        self.rates = flat_rates(self.moments, self.gradient)
        self._sizes = [part.numel() for part in self.gradient]

    def hessian(self, vector: Tensor) -> Tensor:
        """``(H + w) v`` with the coupled weight decay ``w``, shape ``(dim,)``."""
        parts = [
            part.reshape(g.shape)
            for part, g in zip(torch.split(vector, self._sizes), self.gradient, strict=True)
        ]
        images = self._product(parts)
        decays = [0.0 if held is None else held.coupled for held in self.moments]
        return torch.cat(
            [
                (image + w * part if w else image).reshape(-1)
                for image, w, part in zip(images, decays, parts, strict=True)
            ]
        )

    def sharpness(
        self,
        warm: Tensor | None,
        generator: torch.Generator,
        tolerance: float = 1e-2,
        *,
        most_products: int = 40,
    ) -> tuple[float, Tensor, int]:
        """``lambda_max(S^1/2 H S^1/2)`` with ``S = diag(rates)``: 2 is the edge of stability, whatever ``beta_1``.

        Rayleigh-Ritz on a Krylov space of a random vector and what an earlier point has shown, extended by the residual
        of the top pair until its error, ``min(r, r^2 / gap)``, is below ``tolerance`` of it.

        Args:
            warm: what an earlier call returned, or ``None``; one of another length is not used.
            generator: source of the random vector.
            tolerance: relative accuracy.
            most_products: Hessian-vector products at most.

        Returns:
            The eigenvalue, what to hand to the next point (shape ``(k, dim)``), and the products spent.
        """
        space = RitzSpace(preconditioned(self.hessian, self.rates), lambda v: v, self.rates)
        start = torch.randn(self.rates.shape, generator=generator, dtype=self.rates.dtype)
        # where a rate is zero the operator is, too
        space.add(start.to(self.rates) * (self.rates > 0.0))
        if not len(space):
            return 0.0, self.rates.new_zeros((0, self.rates.numel())), 0
        if warm is None or warm.shape[1:] != self.rates.shape:
            warm = self.rates.new_zeros((0, self.rates.numel()))
        for _ in range(_RANDOM_PRODUCTS - 1):
            space.add(space.newest_image, horizontal=True)
        for vector in warm:
            space.add(vector)
        while space.products < most_products:
            values, _ = space.ritz()
            residual = space.residuals((-1,))[0]
            if ritz_error(values, -1, float(residual.norm())) <= tolerance * abs(float(values[-1])):
                break
            if not space.add(residual):
                break
        values, coordinates = space.ritz()
        return float(values[-1]), space.combination(coordinates[:, -_KEPT:].T), space.products


def _like(held: Moments, tensor: Tensor) -> Moments:
    return held.holding(part.to(tensor) for part in held.tensors())
