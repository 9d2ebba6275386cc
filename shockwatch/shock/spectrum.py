"""What a probe asks of the spectrum, in one space of Hessian-vector products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shockwatch.curvature.extremes import ExtremeEigenvalues, Recycled, extreme_eigenvalues
from shockwatch.curvature.reduced import ReducedLoss
from shockwatch.curvature.ritz import RitzSpace
from shockwatch.curvature.spectral_measure import (
    SpectralMeasure,
    horizontal_normal,
    random_measure,
    spectral_measure,
)
from shockwatch.shock.response import LinearResponse

_GRADIENT_PRODUCTS, _NOISE_PRODUCTS = 16, 8  # where digits are wanted
_FIRST_PRODUCTS = 8  # from the random vector, where nothing is recycled
_MOST_RESPONSE = 12  # products for that; with fewer a mixture of modes is taken for an event that has passed


@dataclass(frozen=True)
class Spectrum:
    """Both ends of ``P H P``, and its measure as the gradient and as a random vector see it.

    Attributes:
        gradient: spectral measure of ``P grad L``; ``None`` where that is zero.
        noise: spectral measure of a projected standard normal vector.
        ends: of the spectrum.
        space: every product that was made.
    """

    gradient: SpectralMeasure | None
    noise: SpectralMeasure
    ends: ExtremeEigenvalues
    space: RitzSpace


def frugal(
    reduced: ReducedLoss,
    recycled: Recycled | None,
    generator: torch.Generator,
    tolerance: float,
    most_products: int,
) -> Spectrum:
    """One space for all, which ends as soon as it holds both ends and the response of the gradient.

    It starts from the gradient, a random vector, without which a new direction would not be seen, and the recycled
    ends: on a plateau these six are all that it takes.

    Args:
        reduced: the reduced loss at one canonical point.
        recycled: of an earlier probe.
        generator: source of the random vector.
        tolerance: relative accuracy of the two eigenvalues.
        most_products: Hessian-vector products at most.

    Raises:
        ValueError: if the horizontal space has dimension zero, or the curvature is not finite.
    """
    gradient = reduced.gradient()
    space = RitzSpace(reduced.hvp, reduced.project, gradient)
    draw = horizontal_normal(gradient, reduced.project, generator)
    norm = float(gradient.norm())
    response = None
    if norm > 0.0:
        space.multiply(gradient / norm)
        response = LinearResponse(norm, abs(reduced.loss()), _MOST_RESPONSE)
    space.add(draw, horizontal=True)
    for _ in range(_FIRST_PRODUCTS if recycled is None else 0):
        space.add(space.newest_image, horizontal=True)
    ends = extreme_eigenvalues(
        space, recycled=recycled, tolerance=tolerance, max_products=most_products, demand=response
    )
    return Spectrum(_inside(space, gradient) if norm > 0.0 else None, _inside(space, draw), ends, space)


def thorough(
    reduced: ReducedLoss, recycled: Recycled | None, generator: torch.Generator, tolerance: float
) -> Spectrum:
    """The same Krylov spaces whatever they show, so that no rounding decides; the ends to any number of digits.

    Arguments and errors: see :func:`frugal`.
    """
    gradient = reduced.gradient()
    space = RitzSpace(reduced.hvp, reduced.project, gradient)
    measure = (
        spectral_measure(space.multiply, gradient, _GRADIENT_PRODUCTS, project=reduced.project)
        if float(gradient.norm()) > 0.0
        else None
    )
    noise = random_measure(
        space.multiply, gradient, _NOISE_PRODUCTS, project=reduced.project, generator=generator
    )
    ends = extreme_eigenvalues(space, recycled=recycled, tolerance=tolerance, max_products=1000)
    return Spectrum(measure, noise, ends, space)


def _inside(space: RitzSpace, vector: Tensor) -> SpectralMeasure:
    return SpectralMeasure.of(space, space.coordinates(vector))
