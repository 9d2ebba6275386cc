"""Learning rate times curvature has passed the edge of stability (Cohen et al. 2021)."""

from shockwatch.alerts.rule import Rule

RULE = Rule(
    name="edge of stability",
    tag="shock/lr_lambda_max",
    threshold=2.0,
    release=1.6,
    patience=2,
    severity="warning",
    event="instability",
    cooldown=50,
    message=(
        "Learning rate times largest curvature is {value}, the second time running that it is above {threshold}, "
        "where steps begin to overshoot. That alone need not break training: lower the learning rate or warm it up "
        "longer if the loss starts to oscillate or grow."
    ),
)
