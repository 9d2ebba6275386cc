"""Stochastic Lanczos quadrature against the dense spectrum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from shockwatch.curvature import CanonicalLoss, spectral_density
from shockwatch.symmetry import infer_symmetries
from shockwatch.tracing import StepLoss, trace_step
from tests.symmetry.cases import BY_NAME, state_of

DOUBLE = torch.float64


class Dense:
    """A reduced loss with a known spectrum; ``vertical`` more directions are projected out."""

    def __init__(self, eigenvalues: Tensor, vertical: int = 0) -> None:
        self.dim = len(eigenvalues) + vertical
        g = torch.Generator().manual_seed(5)
        basis = torch.linalg.qr(torch.randn(self.dim, self.dim, generator=g, dtype=DOUBLE)).Q
        horizontal = basis[:, vertical:]
        self._projector = horizontal @ horizontal.T
        self._matrix = horizontal @ torch.diag(eigenvalues) @ horizontal.T

    def gradient(self) -> Tensor:
        return torch.zeros(self.dim, dtype=DOUBLE)

    def hvp(self, vector: Tensor) -> Tensor:
        return self._matrix @ vector

    def loss(self, displacement: Tensor | None = None) -> float:
        return 0.0

    def project(self, vector: Tensor) -> Tensor:
        return self._projector @ vector


def bulk_and_outliers() -> Tensor:
    """400 eigenvalues: a bulk around zero, a tail, three outliers; what trained networks look like."""
    g = torch.Generator().manual_seed(2)
    bulk = 0.2 * torch.randn(300, generator=g, dtype=DOUBLE)
    tail = torch.empty(97, dtype=DOUBLE).exponential_(1.0, generator=g)
    return torch.cat([bulk, tail, torch.tensor([9.0, 12.0, 15.0], dtype=DOUBLE)]).sort().values


@pytest.mark.parametrize("vertical", [0, 60])
def test_moments_within_the_monte_carlo_error(vertical: int) -> None:
    values = bulk_and_outliers()
    draws = 10
    seen = spectral_density(
        Dense(values, vertical), generator=torch.Generator().manual_seed(0), draws=draws, products=30
    )
    assert seen.products == draws * 30
    assert seen.dim == pytest.approx(400, abs=4 * math.sqrt(2 * 400 / draws))
    for power in range(5):
        powers = values**power
        # variance of (x^T f x) / (x^T x) for a normal x: 2 Var(f) / dim, to leading order
        error = math.sqrt(2 * float(powers.var(correction=0)) / (len(values) * draws))
        assert seen.moment(power) == pytest.approx(float(powers.mean()), abs=4 * error + 1e-9)


def test_cumulative_density_within_a_few_percent_and_the_smooth_one_integrates_to_it() -> None:
    values = bulk_and_outliers()
    seen = spectral_density(Dense(values), generator=torch.Generator().manual_seed(1), draws=20, products=80)
    worst = max(
        abs(seen.cumulative(x) - float((values < x).double().mean())) for x in np.linspace(-1, 16, 400)
    )
    assert worst < 0.04  # half a node, and three standard errors of the draws
    step = seen.grid[1] - seen.grid[0]
    assert float(seen.density.sum() * step) == pytest.approx(1.0, abs=1e-3)
    smooth = np.cumsum(seen.density) * step
    exact = [float(torch.special.ndtr((x - values) / seen.width).mean()) for x in seen.grid]
    assert np.abs(smooth - np.array(exact)).max() < 0.03
    # the three outliers are nodes of their own, each with the mass of one eigenvalue
    for outlier in (9.0, 12.0, 15.0):
        near = np.abs(seen.nodes - outlier) < 1e-3
        assert float(seen.weights[near].sum()) == pytest.approx(1 / 400, rel=0.8)


def test_a_network_counts_its_horizontal_directions_only() -> None:
    case = BY_NAME["mlp"]
    model, batch = case.model(), case.data()
    quotient = infer_symmetries(model, case.loss, batch)
    point = quotient.canonicalize(state_of(model))
    reduced = CanonicalLoss(quotient, StepLoss(trace_step(model, case.loss, batch), batch), point, {})
    columns = [reduced.hvp(reduced.project(e)) for e in torch.eye(reduced.dim, dtype=DOUBLE)]
    spectrum = torch.linalg.eigvalsh(torch.stack(columns))
    horizontal = reduced.dim - quotient.dim
    draws = 8
    seen = spectral_density(reduced, generator=torch.Generator().manual_seed(0), draws=draws, products=12)
    assert seen.dim == pytest.approx(horizontal, abs=4 * math.sqrt(2 * horizontal / draws))
    for power in (1, 2, 3, 4):  # the zeros along orbits add nothing to these sums
        exact = float((spectrum**power).sum()) / horizontal

        spread = float(((spectrum**power).square().sum() / horizontal - exact**2).clamp_min(0.0))
        assert seen.moment(power) == pytest.approx(
            exact, abs=4 * math.sqrt(2 * spread / (horizontal * draws))
        )


def test_flat_losses_and_bad_arguments() -> None:
    seen = spectral_density(Dense(torch.zeros(5, dtype=DOUBLE)), generator=torch.Generator(), draws=2)
    assert float(np.abs(seen.nodes).max()) < 1e-12
    assert np.isfinite(seen.density).all()
    for bad in ({"draws": 0}, {"products": 0}, {"points": 0}, {"width": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            spectral_density(Dense(torch.ones(3, dtype=DOUBLE)), generator=torch.Generator(), **bad)
