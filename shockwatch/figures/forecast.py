"""What was forecast before an event, against when it came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shockwatch.figures.canvas import draw
from shockwatch.snapshot import Picture


def forecast_picture(forecasts: Sequence[tuple[int, float, float]], event: int) -> Picture:
    """``shockwatch/forecast``: the step each forecast named, with its error bar, and the step of the event.

    Args:
        forecasts: ``(step it was made, steps ahead, error in steps)``, in step order; at least one.
        event: the step at which the transition came.

    Raises:
        ValueError: if there are no forecasts.
    """
    if not forecasts:
        raise ValueError("forecasts is empty: must hold at least one")

    def paint(ax: Any) -> None:
        made = [step for step, _, _ in forecasts]
        named = [step + ahead for step, ahead, _ in forecasts]
        ax.errorbar(
            made, named, yerr=[error for *_, error in forecasts], fmt="o", capsize=3, label="forecast"
        )
        ax.axhline(event, color="C3", label=f"it came at step {event}")
        ax.set(xlabel="step at which the forecast was made", ylabel="step of the transition")
        ax.legend(frameon=False)

    return draw("shockwatch/forecast", (5.0, 3.6), 1, paint)
