"""Pictures of an event, drawn on the thread that calls. They need matplotlib (``pip install shockwatch[figures]``)."""

from shockwatch.figures.album import Album
from shockwatch.figures.canvas import can_draw
from shockwatch.figures.forecast import forecast_picture
from shockwatch.figures.heads import heads_picture
from shockwatch.figures.slice import slice_picture

__all__ = ["Album", "can_draw", "forecast_picture", "heads_picture", "slice_picture"]
