"""Learning rate times curvature is so far beyond the edge that a jump may not find back."""

from shockwatch.alerts.rule import Rule

RULE = Rule(
    name="far beyond the edge",
    tag="shock/lr_lambda_max",
    threshold=4.0,
    severity="critical",
    event="instability",
    cooldown=50,
    message=(
        "Learning rate times largest curvature is {value}: up to {threshold} a step that overshoots can still settle "
        "in a flatter place, beyond it may be thrown anywhere, with spikes, dead units or divergence (ReLU networks "
        "bear up to about 12). Lower the learning rate now."
    ),
)
"""On a model quadratic in its parameters, gradient descent is caught between 2 and 4 and diverges from 4 on (Lewkowycz
et al. 2020, the catapult); ReLU networks bear up to about 12. No patience: after one such step it is too late."""
