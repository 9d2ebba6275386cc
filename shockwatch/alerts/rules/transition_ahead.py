"""A transition is coming within the forecast horizon."""

from shockwatch.alerts.rule import Rule

RULE = Rule(
    name="transition ahead",
    tag="shock/proximity",
    threshold=1.0,
    release=0.5,
    patience=2,
    severity="warning",
    forecast_tag="shock/arrival_steps",
    message=(
        "Training is heading for a phase transition {forecast}: expect the loss to change quickly; save a "
        "checkpoint now, and lower the learning rate if you want to pass it gently."
    ),
)
