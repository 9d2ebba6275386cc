"""One probe of the reduced loss: gradient, ends of the spectrum, spectral measures, the unstable slice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shockwatch.curvature.extremes import ExtremeEigenvalues, Recycled
from shockwatch.curvature.reduced import ReducedLoss
from shockwatch.curvature.spectral_measure import SpectralMeasure
from shockwatch.memory import MOST_PRODUCTS
from shockwatch.shock.response import growth_time
from shockwatch.shock.slice import LossSlice, take_slice, time_to_steepest
from shockwatch.shock.spectrum import frugal, thorough

_TIGHT = 1e-4  # below this tolerance the caller wants digits, not speed
LOOSE = 2e-2
"""Relative accuracy of the ends of the spectrum that forecasts ask for."""

_HEAVY = 0.05  # share of |g|^2 from which a direction is worth a slice of its own
_ONE_MODE = 0.95  # cosine from which the unstable modes together are one of them
_LEADING = 0.5  # share of |g|^2 that they must carry: a mixture of small remnants names no transition
_VISIBLE_DROP = 0.05  # share of the loss

_Candidate = tuple[Tensor, float, float, "LossSlice | None"]


@dataclass(frozen=True)
class Probe:
    """What one point says about the shocks ahead, in units of training time and horizontal length.

    Attributes:
        loss: ``L(q)``.
        gradient_norm: ``|P grad L|``.
        lambda_min, lambda_max: ends of the spectrum of ``P H P``; ``residual_min``, ``residual_max`` bound
            their error.
        direction: unit vector ``u`` of the unstable mode that grows to the size of the loss first, signed to
            have ``<g, u> <= 0``, shape ``(dim,)``; the one of ``lambda_min`` where nothing is unstable.
        slope: ``<g, u>``.
        curvature: ``<u, H u>``, not below ``lambda_min``.
        share: ``<g, u>^2 / |g|^2``, in [0, 1].
        gradient_measure: spectral measure of the gradient; ``None`` where the gradient is zero.
        noise_measure: spectral measure of a random vector (for traces).
        slice: the loss along ``u``; ``None`` where nothing is unstable beyond the residual, or nothing lies
            downhill.
        products: Hessian-vector products spent.
        recycled: what to hand to the next probe.
    """

    loss: float
    gradient_norm: float
    lambda_min: float
    lambda_max: float
    residual_min: float
    residual_max: float
    direction: Tensor
    slope: float
    curvature: float
    share: float
    gradient_measure: SpectralMeasure | None
    noise_measure: SpectralMeasure
    slice: LossSlice | None
    products: int
    recycled: Recycled

    @property
    def unstable(self) -> bool:
        """Whether ``lambda_min`` is below zero by more than its Lanczos residual."""
        return self.lambda_min < -self.residual_min


def probe(
    reduced: ReducedLoss,
    recycled: Recycled | None,
    generator: torch.Generator,
    tolerance: float = LOOSE,
    *,
    most_products: int = MOST_PRODUCTS,
) -> Probe:
    """Probe one point; on a plateau that was probed before 6 to 8 Hessian-vector products, elsewhere 10 to 30, and,
    where unstable, about 30 forward passes a direction.

    Args:
        reduced: the reduced loss at one canonical point.
        recycled: ``recycled`` of an earlier probe, or ``None``.
        generator: source of the random parts; the only randomness here.
        tolerance: relative accuracy of the two eigenvalues; below 1e-4 the number of products is not capped.
        most_products: Hessian-vector products at most; each keeps two vectors until the probe is done.

    Raises:
        ValueError: if the horizontal space has dimension zero, or gradient or curvature are not finite.
    """
    gradient = reduced.gradient()
    norm = float(gradient.norm())
    if not math.isfinite(norm):
        raise ValueError(f"gradient has norm {norm!r}: nothing to probe")
    here = reduced.loss()
    if tolerance < _TIGHT:
        spectrum = thorough(reduced, recycled, generator, tolerance)
    else:
        spectrum = frugal(reduced, recycled, generator, tolerance, most_products)
    measure, ends = spectrum.gradient, spectrum.ends
    lambda_min, residual_min = ends.lambda_min, ends.residual_min
    unstable = lambda_min < -residual_min
    direction, curvature = ends.vector_min, ends.lambda_min
    slope, loss_slice = float(gradient @ direction), None
    if unstable and measure is not None:
        candidates = _candidates(gradient, measure, ends, abs(here))
        direction, curvature, slope, loss_slice = _earliest(
            [_sliced(reduced, here, u, c) for u, c in candidates]
        )
    elif slope > 0.0:
        direction, slope = -direction, -slope
    return Probe(
        loss=here,
        gradient_norm=norm,
        lambda_min=lambda_min,
        lambda_max=ends.lambda_max,
        residual_min=residual_min,
        residual_max=ends.residual_max,
        direction=direction,
        slope=slope,
        curvature=curvature,
        share=(slope / norm) ** 2 if norm > 0.0 else 0.0,
        gradient_measure=measure,
        noise_measure=spectrum.noise,
        slice=loss_slice,
        products=spectrum.space.products,
        recycled=Recycled.of(spectrum.space),
    )


def _sliced(reduced: ReducedLoss, here: float, direction: Tensor, curvature: float) -> _Candidate:
    slope = float(reduced.gradient() @ direction)
    if slope > 0.0:
        direction, slope = -direction, -slope
    return (
        direction,
        curvature,
        slope,
        take_slice(lambda s: reduced.loss(s * direction) if s else here, slope, curvature),
    )


def _earliest(candidates: list[_Candidate]) -> _Candidate:
    """The candidate whose slice is steepest soonest, among those that go down visibly; else the first."""

    def time(candidate: _Candidate) -> float:
        loss_slice = candidate[3]
        if loss_slice is None or loss_slice.relative_drop < _VISIBLE_DROP:
            return math.inf
        remaining = time_to_steepest(loss_slice)[0]
        return math.inf if math.isnan(remaining) else remaining

    return min(candidates, key=time) if len(candidates) > 1 else candidates[0]


def _candidates(
    gradient: Tensor, measure: SpectralMeasure, ends: ExtremeEigenvalues, loss: float
) -> list[tuple[Tensor, float]]:
    """Unstable Ritz directions that may bring the next transition, with their curvature; one to three.

    First the one that grows to a drop of the order of the loss soonest (`growth_time`): the lowest eigenvalue need not
    win, as a symmetry that is not divided out, or a mode that is already half-way, leaves the gradient on a milder
    direction that arrives much earlier. Then the one with most of the gradient: close to its steepest point a mode has
    little curvature left, and the growth law puts it too late. Last, where several modes grow side by side (the units
    of a ReLU network), the direction they take together.
    """
    negative = [i for i, node in enumerate(measure.nodes) if node < 0.0]
    lowest = [(ends.vector_min, ends.lambda_min)] if ends.lambda_min < 0.0 else []
    if not negative:
        return lowest
    times = [growth_time(float(measure.nodes[i]), float(measure.amplitudes[i]), loss) for i in negative]
    first = negative[times.index(min(times))]
    heaviest = max(negative, key=lambda i: float(measure.weights[i]))
    chosen = [(measure.vector(first), float(measure.nodes[first]))]
    if lowest and growth_time(ends.lambda_min, float(gradient @ ends.vector_min), loss) < min(times):
        chosen = lowest
    leak = measure.space.leak(measure.space.ritz()[1][:, heaviest])
    resolved = leak < 0.5 * abs(measure.nodes[heaviest])
    heavy = resolved and measure.weights[heaviest] > _HEAVY * measure.total
    if heavy and (heaviest != first or chosen is lowest):
        chosen = [*chosen, (measure.vector(heaviest), float(measure.nodes[heaviest]))]
    together = _growth(measure, min(times)) if measure.unstable_share > _LEADING else None
    if together is not None and abs(float(together[0] @ chosen[0][0])) < _ONE_MODE:
        chosen = [*chosen, together]
    return chosen


def _growth(measure: SpectralMeasure, time: float) -> tuple[Tensor, float] | None:
    """Direction of the displacement after ``time`` that all unstable modes make together, and its curvature.

    By linear response mode ``i`` goes as far as ``<g, u_i> (e^(|lambda_i| t) - 1) / |lambda_i|``.
    """
    if not 0.0 < time < math.inf:
        return None
    negative = measure.nodes < 0.0
    rates = -measure.nodes[negative]
    sizes = measure.amplitudes[negative] * np.exp(rates * time - rates.max() * time)
    sizes *= -np.expm1(-rates * time) / rates
    shares = sizes**2 / float(sizes @ sizes)
    return measure.space.vector(measure.space.ritz()[1][:, negative] @ sizes), -float(shares @ rates)
