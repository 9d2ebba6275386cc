"""The spectral measure of the Hessian seen from one vector (theory.md 5): one Lanczos run, many answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from shockwatch.curvature.lanczos import krylov
from shockwatch.curvature.ritz import Array, Operator, Subspace


@dataclass(frozen=True)
class SpectralMeasure:
    """Quadrature of ``mu(f) = g^T f(H) g``; exact in a Krylov space of ``g`` for polynomials of low degree.

    Attributes:
        nodes: Ritz values, ascending, shape ``(m,)``.
        amplitudes: ``<g, u>`` of their Ritz vectors as ``space.ritz()`` has them, shape ``(m,)``.
        start: ``V g``, shape ``(m,)``.
        space: what they live in; it holds ``g``.
    """

    nodes: Array
    amplitudes: Array
    start: Array
    space: Subspace

    @classmethod
    def of(cls, space: Subspace, start: Array) -> SpectralMeasure:
        """The measure of the vector ``start @ V``."""
        nodes, coordinates = space.ritz()
        return cls(nodes, start @ coordinates, start, space)

    @property
    def weights(self) -> Array:
        """Parts of ``|g|^2`` at the nodes, shape ``(m,)``."""
        return self.amplitudes**2

    @cached_property
    def residuals(self) -> Array:
        """``|H u - lambda u|`` of each Ritz vector, shape ``(m,)``."""
        return np.array([self.space.leak(column) for column in self.space.ritz()[1].T])

    def vector(self, index: int) -> Tensor:
        """Unit Ritz vector ``u`` of a node, signed to have ``<g, u> >= 0``, shape ``(dim,)``."""
        coordinates = self.space.ritz()[1][:, index]
        return self.space.vector(coordinates if self.amplitudes[index] >= 0.0 else -coordinates)

    @property
    def total(self) -> float:
        """``|g|^2``."""
        return float(self.weights.sum())

    @property
    def rate(self) -> float:
        """``R = <g, H g> / |g|^2``, per unit training time; negative: the gradient steepens."""
        return float(self.weights @ self.nodes) / self.total if self.total > 0.0 else math.nan

    @property
    def unstable_share(self) -> float:
        """Share of ``|g|^2`` on negative nodes, in [0, 1]."""
        return float(self.weights[self.nodes < 0.0].sum()) / self.total if self.total > 0.0 else 0.0

    def response(self, time: float, *, below: float = math.inf) -> float:
        """Linear response ``|g(t)|^2 = integral e^(-2 lambda t) d mu_g`` over nodes below ``below``."""
        kept = self.nodes < below
        exponents = np.minimum(-2.0 * self.nodes[kept] * time, 600.0)
        return float(self.weights[kept] @ np.exp(exponents))

    def resolvent(self, time: float) -> float:
        """``g^T (I + tau H)^-1 g``; NaN at and past the breakdown ``tau = -1 / lambda_min``."""
        factors = 1.0 + time * self.nodes
        return float((self.weights / factors).sum()) if bool((factors > 0.0).all()) else math.nan

    def log_determinant(self, time: float) -> float:
        """``g^T log(I + tau H) g``: for a standard normal ``g``, an estimate of ``log det(I + tau H)``."""
        factors = 1.0 + time * self.nodes
        return float(self.weights @ np.log(factors)) if bool((factors > 0.0).all()) else math.nan

    def lead_time(self, horizon: float) -> float:
        """First time the negative nodes carry half of ``|g(t)|^2``; inf if not before ``horizon``."""
        if self.unstable_share >= 0.5:
            return 0.0
        if self.unstable_share == 0.0 or not self._leads(horizon):
            return math.inf
        low, high = 0.0, horizon
        for _ in range(40):  # the ratio grows with time: bisection
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self._leads(middle) else (middle, high)
        return high

    def _leads(self, time: float) -> bool:
        return self.response(time, below=0.0) >= 0.5 * self.response(time)


def spectral_measure(
    operator: Operator, vector: Tensor, products: int = 16, *, project: Operator | None = None
) -> SpectralMeasure:
    """Lanczos from ``vector`` (horizontal, shape ``(dim,)``).

    Raises:
        ValueError: if ``vector`` is zero or not finite.
    """
    space = krylov(operator, vector, products, project=project)
    start = np.zeros(len(space.diagonal))
    start[0] = float(vector.norm())
    return SpectralMeasure.of(space, start)


def horizontal_normal(like: Tensor, project: Operator, generator: torch.Generator) -> Tensor:
    """A standard normal vector, projected; length, type and device are those of ``like``, shape ``(dim,)``."""
    draw = torch.randn(like.numel(), generator=generator, dtype=like.dtype, device=generator.device)
    return project(draw.to(like.device))


def random_measure(
    operator: Operator,
    like: Tensor,
    products: int = 8,
    *,
    project: Operator,
    generator: torch.Generator,
) -> SpectralMeasure:
    """Spectral measure of a projected standard normal vector: its mean over draws is the trace of ``f(H)``.

    Raises:
        ValueError: if the horizontal space has dimension zero.
    """
    return spectral_measure(operator, horizontal_normal(like, project, generator), products, project=project)


def local_entropy_gap(
    gradient: SpectralMeasure, noise: SpectralMeasure, time: float, viscosity: float
) -> float:
    """Laplace ``U(q, tau) - L(q) = -tau g^T (I + tau H)^-1 g / 2 + nu log det(I + tau H)`` (theory.md 4).

    ``U`` and ``L`` in units of the loss, ``time`` in training time, ``viscosity`` in loss. ``noise`` is a
    `random_measure`: one draw estimates the determinant (Hutchinson). NaN past the breakdown
    ``tau = -1 / lambda_min``, and where ``viscosity`` is NaN or ``time`` is not positive and finite.
    """
    if not (0.0 < time < math.inf) or math.isnan(viscosity):
        return math.nan
    return -0.5 * time * gradient.resolvent(time) + viscosity * noise.log_determinant(time)
