"""The whole spectrum of ``P H P`` by stochastic Lanczos quadrature (Ubaru, Chen, Saad 2017; Ghorbani et al. 2019).

Not part of a probe: it costs ``draws * products`` Hessian-vector products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shockwatch.curvature.reduced import ReducedLoss
from shockwatch.curvature.spectral_measure import random_measure
from shockwatch.errors import require_float, require_positive_int

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SpectralDensity:
    """A quadrature of the distribution of eigenvalues on the horizontal space, total mass 1.

    Attributes:
        nodes: Ritz values of all draws, ascending, shape ``(k,)``.
        weights: their masses, shape ``(k,)``.
        grid: where the smoothed density is given, shape ``(points,)``.
        density: Gaussians on the nodes, per unit of eigenvalue, shape ``(points,)``; it integrates to 1.
        width: standard deviation of the Gaussians.
        dim: estimated dimension of the horizontal space: eigenvalues below ``x`` number ``dim * cumulative(x)``.
        products: Hessian-vector products spent.
    """

    nodes: Array
    weights: Array
    grid: Array
    density: Array
    width: float
    dim: float
    products: int

    def moment(self, power: int) -> float:
        """Mean of ``lambda^power`` over the horizontal eigenvalues; power 1 is the trace over the dimension."""
        return float(self.weights @ self.nodes**power)

    def cumulative(self, value: float) -> float:
        """Share of eigenvalues below ``value``, in [0, 1]; a node at ``value`` itself counts half."""
        return float(self.weights[self.nodes < value].sum() + 0.5 * self.weights[self.nodes == value].sum())


def spectral_density(
    reduced: ReducedLoss,
    *,
    generator: torch.Generator,
    draws: int = 8,
    products: int = 32,
    width: float = 0.01,
    points: int = 1024,
) -> SpectralDensity:
    """Estimate the density of eigenvalues of ``P H P`` on the horizontal space.

    Each draw is a Gauss quadrature from a random horizontal direction. Its weights average to the density, with a
    standard error of ``sqrt(2 Var f / (dim * draws))`` on the mean of a function ``f`` of the eigenvalue; moments up
    to ``2 products - 1`` have no other error. Details finer than about the range over ``products`` are not resolved,
    except single outliers once Lanczos has found them. Directions along orbits, whose curvature is not one of the
    reduced loss, are not counted.

    Args:
        reduced: the reduced loss at one canonical point.
        generator: source of the random directions; the only randomness here.
        draws: random directions.
        products: Hessian-vector products for each.
        width: standard deviation of the Gaussians, as a share of the range of the nodes.
        points: of the grid, which reaches four widths beyond the nodes.

    Raises:
        ValueError: if an argument is out of range or the horizontal space has dimension zero.
    """
    require_positive_int("draws", draws)
    require_positive_int("products", products)
    require_positive_int("points", points)
    require_float("width", width, 0.0, 1.0, open_low=True)
    like = reduced.gradient()
    measures = [
        random_measure(reduced.hvp, like, products, project=reduced.project, generator=generator)
        for _ in range(draws)
    ]
    nodes = np.concatenate([measure.nodes for measure in measures])
    weights = np.concatenate([measure.weights for measure in measures])
    dim = float(weights.sum()) / draws
    order = np.argsort(nodes)
    nodes, weights = nodes[order], weights[order] / weights.sum()
    reach = float(nodes[-1] - nodes[0]) or abs(float(nodes[0])) or 1.0
    deviation = width * reach
    grid = np.linspace(nodes[0] - 4.0 * deviation, nodes[-1] + 4.0 * deviation, points)
    heights = np.exp(-0.5 * ((grid[:, None] - nodes) / deviation) ** 2) / (
        deviation * math.sqrt(2.0 * math.pi)
    )
    return SpectralDensity(
        nodes=nodes,
        weights=weights,
        grid=grid,
        density=heights @ weights,
        width=deviation,
        dim=dim,
        products=sum(len(measure.nodes) for measure in measures),
    )
