"""The local entropy ``U(q, tau)`` and its gradient on the quotient, in two independent ways (theory.md 4).

``U(q, tau) = -2 nu log E exp(-L(q + sqrt(2 nu tau) xi) / (2 nu))`` with ``xi`` standard normal and horizontal.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shockwatch.curvature.reduced import ReducedLoss
from shockwatch.curvature.ritz import Array
from shockwatch.curvature.spectral_measure import SpectralMeasure, horizontal_normal
from shockwatch.errors import require_float, require_positive_int

_RESOLVED = 0.05  # largest share of the gradient that Lanczos may leave open
_FORM = 0.2  # the same for the part of the gap that is quadratic in it
_ANHARMONIC = 0.2  # largest departure of the loss from its quadratic model, relative to what the model moves
_EFFECTIVE = 16.0  # fewest samples' worth of weight that a Monte-Carlo mean may rest on,
_EFFECTIVE_SHARE = (
    0.1  # and fewest of those drawn: below, the heavy tail is not in the sample, nor in its error
)
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class LocalEntropy:
    """``U`` and ``grad U`` at one point and one ``tau``, or why they are not known.

    Attributes:
        gap: ``U(q, tau) - L(q)``, in units of the loss; NaN where not valid.
        gap_error: one standard error of ``gap``, and what Lanczos may have left out of it.
        gradient: ``grad U``, shape ``(dim,)``; ``None`` where not valid, or where Lanczos resolves the gap only.
        gradient_error: one standard error of ``gradient``, as a length (root of the summed variances); NaN without it.
        reason: one plain clause where not valid, else empty.
    """

    gap: float
    gap_error: float
    gradient: Tensor | None
    gradient_error: float
    reason: str = ""

    @property
    def valid(self) -> bool:
        """Whether the method supports its numbers here."""
        return not self.reason


def _invalid(reason: str) -> LocalEntropy:
    return LocalEntropy(math.nan, math.nan, None, math.nan, reason)


def laplace(
    gradient: SpectralMeasure,
    traces: Sequence[SpectralMeasure],
    time: float,
    viscosity: float,
    loss: ReducedLoss | None = None,
) -> LocalEntropy:
    """Laplace form, exact for a quadratic loss: one Lanczos run from the gradient serves every ``time``.

    ``grad U = (I + tau H)^-1 g`` and ``U - L = -tau g^T (I + tau H)^-1 g / 2 + nu log det(I + tau H)``. The
    determinant is exact where ``gradient`` spans the whole horizontal space, as its eigenvalues are then all known
    (``traces`` empty); else it is the mean over ``traces`` (Hutchinson), whose variance is estimated from them too.

    Not valid past the breakdown ``tau = -1 / lambda_min``; where Lanczos has not resolved ``grad U``; and, if ``loss``
    is given (three forward passes), where the loss leaves its quadratic model at the centre ``q - tau grad U`` or
    at ``q +- sqrt(2 nu tau) xi``.

    Args:
        gradient: spectral measure of the gradient.
        traces: `random_measure`s; may be empty only if ``gradient`` spans the space.
        time: ``tau`` > 0, training time.
        viscosity: ``nu`` >= 0, in units of the loss.
        loss: the reduced loss the measures belong to.

    Raises:
        ValueError: if an argument is out of range.
    """
    require_float("time", time, 0.0, _LARGEST, open_low=True)
    require_float("viscosity", viscosity, 0.0, _LARGEST)
    lowest = min(float(m.nodes[0]) for m in (gradient, *traces))
    if lowest * time <= -1.0:
        return _invalid("tau is past the breakdown of the Laplace form, -1 / lambda_min")
    space = gradient.space
    small = space.projected
    start = gradient.start
    inside: Array = np.linalg.solve(np.eye(len(small)) + time * small, start).astype(np.float64)
    # residual of (I + tau H) x = g, over the smallest factor that multiplies an error
    floor = min(1.0, 1.0 + time * lowest)
    residual = time * space.leak(inside)
    error = residual / floor
    # the quadratic form is off by r^T (I + tau H)^-1 r only
    form, form_error = float(start @ inside), residual * error
    if form_error > _FORM * abs(form):
        return _invalid("Lanczos has not resolved the gradient of the local entropy")
    resolved = error <= _RESOLVED * float(np.linalg.norm(inside))
    if traces:
        draws = np.array([m.log_determinant(time) for m in traces])
        logarithm = float(draws.mean())
        # Var z^T A z = 2 tr A^2, and tr A^2 = E z^T A^2 z
        spread = float(np.mean([m.weights @ np.log1p(time * m.nodes) ** 2 for m in traces]))
        logarithm_error = math.sqrt(2.0 * spread / len(draws))
    elif float(gradient.residuals.max()) == 0.0:
        logarithm, logarithm_error = float(np.log1p(time * gradient.nodes).sum()), 0.0
    else:
        raise ValueError("traces=(): may be empty only where the gradient's Krylov space is the whole space")
    slope = float(np.linalg.norm(inside)) * space.vector(inside)
    if loss is not None:
        bend = float(inside @ small @ inside)
        expected = -time * form + 0.5 * time**2 * bend
        departs = abs(loss.loss(-time * slope) - loss.loss() - expected) > _ANHARMONIC * abs(expected)
        if departs or (viscosity > 0.0 and traces and _noise_departs(loss, traces[0], time, viscosity)):
            return _invalid("the loss leaves its quadratic model within the averaged neighbourhood")
    value = -0.5 * time * form + viscosity * logarithm
    value_error = math.hypot(viscosity * logarithm_error, 0.5 * time * form_error)
    return LocalEntropy(value, value_error, slope if resolved else None, error if resolved else math.nan)


def _noise_departs(loss: ReducedLoss, trace: SpectralMeasure, time: float, viscosity: float) -> bool:
    step = math.sqrt(2.0 * viscosity * time * trace.total) * trace.space.vector(trace.start)
    expected = 2.0 * viscosity * time * float(trace.weights @ trace.nodes)
    scale = 2.0 * viscosity * time * float(trace.weights @ np.abs(trace.nodes))
    return abs(loss.loss(step) + loss.loss(-step) - 2.0 * loss.loss() - expected) > _ANHARMONIC * scale


def monte_carlo(
    loss: ReducedLoss,
    time: float,
    viscosity: float,
    generator: torch.Generator,
    samples: int = 256,
) -> LocalEntropy:
    """Monte-Carlo form: valid for any loss, where the weights do not collapse on a few samples.

    With ``w = exp(-(L(q + sqrt(2 nu tau) xi) - L(q)) / (2 nu))``: ``U - L = -2 nu log mean(w)`` and
    ``grad U = -sqrt(2 nu / tau) sum(w xi) / sum(w)``. Errors are those of the ratio of two means. Not valid where the
    effective sample size ``sum(w)^2 / sum(w^2)`` is below 16 or a tenth of the samples.

    Args:
        loss: the reduced loss at the point.
        time: ``tau`` > 0, training time.
        viscosity: ``nu`` > 0, in units of the loss.
        generator: source of ``xi``.
        samples: forward passes; ``xi`` is drawn twice and never stored.

    Raises:
        ValueError: if an argument is out of range.
    """
    require_float("time", time, 0.0, _LARGEST, open_low=True)
    require_float("viscosity", viscosity, 0.0, _LARGEST, open_low=True)
    require_positive_int("samples", samples)
    like = loss.gradient()
    state = generator.get_state()

    def draw() -> Tensor:
        return horizontal_normal(like, loss.project, generator)

    reach = math.sqrt(2.0 * viscosity * time)
    here = loss.loss()
    exponents = np.array([(here - loss.loss(reach * draw())) / (2.0 * viscosity) for _ in range(samples)])
    if not bool(np.isfinite(exponents).all()):
        return _invalid("the loss is not finite within the averaged neighbourhood")
    highest = float(exponents.max())
    weights = np.exp(exponents - highest)
    total = float(weights.sum())
    effective = total**2 / float((weights**2).sum())
    if effective < max(_EFFECTIVE, _EFFECTIVE_SHARE * samples):
        return _invalid(f"the average rests on {effective:.1f} effective samples of {samples}")
    share = weights / total
    generator.set_state(state)
    first, second, square = torch.zeros_like(like), torch.zeros_like(like), torch.zeros_like(like)
    for part in share:
        xi = draw()
        first += part * xi
        second += part**2 * xi
        square += part**2 * xi**2
    variance = square - 2.0 * first * second + first**2 * float((share**2).sum())
    pull = math.sqrt(2.0 * viscosity / time)
    return LocalEntropy(
        gap=-2.0 * viscosity * (highest + math.log(total / samples)),
        gap_error=2.0 * viscosity * math.sqrt(max(0.0, 1.0 / effective - 1.0 / samples)),
        gradient=-pull * first,
        gradient_error=pull * math.sqrt(float(variance.clamp_min(0.0).sum())),
    )
