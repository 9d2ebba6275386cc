"""A transition is coming within the forecast horizon."""

from shockwatch.alerts.rule import Rule

RULE = Rule(
    name="transition ahead",
    tag="shock/proximity",
    threshold=1.0,
    release=0.5,
    patience=2,
    at_once=5.0,
    severity="warning",
    forecast_tag="shock/arrival_steps",
    error_tag="shock/arrival_error",
    score_tag="shock/forecast_score",
    message=(
        "Training is heading for a phase transition {forecast}; {score}. Expect the loss to change quickly: save a "
        "checkpoint now, and lower the learning rate if you want to pass it gently."
    ),
)
"""Two looks running must agree, unless the transition is within a fifth of the horizon: a second look would be late."""
