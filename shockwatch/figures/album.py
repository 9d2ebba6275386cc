"""Which pictures an event asks for: drawn once when a transition comes near, and once when it has passed."""

from __future__ import annotations

from collections.abc import Mapping

from shockwatch.figures.canvas import can_draw
from shockwatch.figures.forecast import forecast_picture
from shockwatch.figures.heads import heads_picture
from shockwatch.figures.slice import slice_picture
from shockwatch.phase.hysteresis import Hysteresis
from shockwatch.shock.score import ScoredEvent
from shockwatch.shock.slice import LossSlice
from shockwatch.snapshot import Picture, State
from shockwatch.symmetry import Quotient

_NEAR, _FAR = 1.0, 0.5  # of proximity: as the default alert rule
_MISSING = "pictures of this event need matplotlib: pip install shockwatch[figures]."


class Album:
    """Draws at the first probe with a proximity of 1, and where forecasts are scored; costs nothing in between."""

    def __init__(self) -> None:
        self._near = Hysteresis(enter=_NEAR, leave=_FAR, patience_enter=1, patience_leave=1)
        self._said = False

    def see(
        self,
        values: Mapping[str, float],
        loss_slice: LossSlice | None,
        scored: ScoredEvent | None,
        quotient: Quotient,
        canonical: State,
        *,
        step: int,
        viscosity: float,
        time_per_step: float,
        training_time: float,
    ) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
        """Pictures of this probe, most often none, and a note where they cannot be drawn.

        Args:
            values: the ``shock/`` scalars.
            loss_slice: the loss along the unstable direction.
            scored: the event that has just passed, with the forecasts made before it.
            step, training_time, time_per_step: the clock of the snapshot.
            viscosity: measured on the run, in units of the loss.
        """
        before = self._near.on
        comes = self._near.update(values["shock/proximity"]) and not before
        if not (comes or scored):
            return (), ()
        if not can_draw():
            note, self._said = () if self._said else (_MISSING,), True
            return (), note
        pictures: list[Picture | None] = []
        if comes:
            pictures.append(heads_picture(quotient, canonical, step))
        if comes and loss_slice is not None:
            arrival, error = values["shock/arrival_steps"], values["shock/arrival_error"]
            pictures.append(slice_picture(loss_slice, viscosity, step, arrival, error))
        if scored and scored.forecasts and time_per_step > 0.0:

            def at(time: float) -> int:
                return round(step - (training_time - time) / time_per_step)

            made = [(at(m), (a - m) / time_per_step, 0.0) for m, a in scored.forecasts]
            pictures.append(forecast_picture(made, at(scored.time)))
        return tuple(picture for picture in pictures if picture is not None), ()
