"""Learning rate times curvature is on its way to the edge of stability."""

from shockwatch.alerts.rule import Rule

RULE = Rule(
    name="edge of stability ahead",
    tag="phase/edge_steps",
    threshold=100.0,
    direction="below",
    patience=2,
    severity="info",
    event="instability",
    cooldown=50,
    forecast_tag="phase/edge_steps",
    error_tag="phase/edge_error",
    message=(
        "At this pace learning rate times largest curvature passes the edge of stability {forecast}. Stop "
        "raising the learning rate, or save a checkpoint before it."
    ),
)
