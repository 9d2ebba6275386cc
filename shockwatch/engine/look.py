"""The expensive look at one snapshot: the curvature of its loss, and the shock it announces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shockwatch.curvature import AdaptedLoss, CanonicalLoss, Recycled, with_weight_decay
from shockwatch.engine.watched_step import WatchedStep, cast
from shockwatch.figures import Album
from shockwatch.observables import Point
from shockwatch.shock.adam_path import AdamPath, adam_path
from shockwatch.shock.indicators import ShockIndicators
from shockwatch.shock.lookahead import shows_enough
from shockwatch.shock.probe import LOOSE, Probe, probe
from shockwatch.shock.residual import burgers_residual
from shockwatch.snapshot import Picture, Snapshot, State
from shockwatch.tracing import StepLoss

_TIGHT = 1e-9  # relative accuracy of the extreme eigenvalues for models in double precision; LOOSE for others


class CurvatureLook:
    """Probes one canonical point after another, in step order, and remembers what the next one starts from.

    Args:
        step: the watched step.
        horizon: steps ahead that count as near.
        seed: of every random number drawn here.

    Attributes:
        forgets: keep no vector from one probe to the next: each looks for the spectrum anew, and
            ``shock/gradient_field`` is NaN.
    """

    def __init__(self, step: WatchedStep, horizon: int, seed: int) -> None:
        self._step = step
        self._shock = ShockIndicators(horizon)
        self._album = Album()
        self._generator = torch.Generator().manual_seed(seed)
        self._gradient: tuple[Tensor, State] | None = None
        self._recycled: Recycled | None = None
        self._sharpest: Tensor | None = None
        self._said = False
        self.forgets = False

    def adapted(
        self, loss: StepLoss, snapshot: Snapshot, *, most_products: int
    ) -> tuple[dict[str, float], AdamPath | None]:
        """What belongs to Adam and to the raw point of ``snapshot``: scalars and the path ahead, none for others."""
        if not snapshot.moments:
            return {}, None
        dtype, device = self._step.dtype, self._step.device
        state = {n: cast(t, dtype).to(device) for n, t in snapshot.state.items()}
        frozen = {n: cast(t, dtype) for n, t in self._step.frozen.items()}
        adapted = AdaptedLoss(loss, state, frozen, snapshot.moments)
        sharpness, self._sharpest, _ = adapted.sharpness(
            self._sharpest, self._generator, LOOSE, most_products=most_products
        )
        return {"raw/lr_lambda_max": sharpness}, adam_path(adapted, enough=shows_enough)

    def see(
        self,
        loss: StepLoss,
        point: Point,
        snapshot: Snapshot,
        viscosity: float,
        *,
        most_products: int,
        path: AdamPath | None = None,
    ) -> tuple[Probe, dict[str, float], tuple[str, ...]]:
        """What was seen at ``point``, its ``shock/`` scalars, and what has to be said.

        Args:
            loss: of the watched step.
            point: the canonical point of ``snapshot``.
            snapshot: for its clock.
            viscosity: ``quotient/viscosity`` of this snapshot; NaN where it is not known.
            most_products: of the probe: Hessian-vector products at most.
            path: of :meth:`adapted`.
        """
        dtype = self._step.dtype
        state = {n: cast(t, dtype).to(self._step.device) for n, t in point.canonical.items()}
        frozen = {n: cast(t, dtype) for n, t in self._step.frozen.items()}
        if dtype is not None:
            # Canonical in float32 is not quite canonical in float64.
            state = point.quotient.align(point.quotient.balance(state), state)
        plain = CanonicalLoss(point.quotient, loss, state, frozen)
        reduced, undecayed = with_weight_decay(plain, point.quotient, state, snapshot.weight_decay)
        said, self._said = () if self._said else undecayed, True
        # Who trains in double precision wants it: where Lanczos stops would otherwise hang on the last bit.
        double = all(point.raw[n].dtype == torch.float64 for n in point.quotient.names)
        seen = probe(
            reduced,
            self._recycled,
            self._generator,
            _TIGHT if double else LOOSE,
            most_products=most_products,
        )
        self._recycled = None if self.forgets else seen.recycled
        values, notes = self._shock.update(
            seen,
            step=point.step,
            training_time=point.training_time,
            time_per_step=snapshot.time_per_step,
            viscosity=viscosity,
            pace=snapshot.pace,
            path=path,
            displacement_alignment=self._alignment(point),
            residual=burgers_residual(reduced, seen, viscosity, self._generator),
        )
        values["shock/lr_lambda_max"] = snapshot.stability_rate * seen.lambda_max
        if not self.forgets:
            self._gradient = (reduced.gradient().cpu(), point.canonical)
        return seen, values, (*notes, *said)

    def picture(
        self, seen: Probe, values: dict[str, float], point: Point, snapshot: Snapshot, viscosity: float
    ) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
        """The pictures of an event that the last look shows, and what has to be said of them."""
        return self._album.see(
            values,
            seen.slice,
            self._shock.scored,
            point.quotient,
            point.canonical,
            step=point.step,
            viscosity=viscosity,
            time_per_step=1.0 if self._shock.counts_steps else snapshot.time_per_step,
            training_time=float(point.step) if self._shock.counts_steps else point.training_time,
        )

    def _alignment(self, point: Point) -> float:
        """Cosine between the displacement since the last probe and the descent direction there."""
        if self._gradient is None:
            return math.nan
        gradient, start = self._gradient
        move = point.quotient.flatten(point.canonical).double() - point.quotient.flatten(start).double()
        size = float(move.norm()) * float(gradient.norm())
        return -float(move @ gradient.double()) / size if size > 0 else math.nan

    def state_dict(self) -> dict[str, Any]:
        """What the indicators remember."""
        return {"shock": self._shock.state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`; other entries of ``state`` are not read."""
        self._shock.load_state_dict(state["shock"])
        self._generator.set_state(state["generator"])
