"""The run is broken or breaking: loss or parameters not finite, or the loss far above its start."""

from shockwatch.alerts.rule import Rule
from shockwatch.phase import PhaseState

RULE = Rule(
    name="divergence",
    tag="phase/state",
    threshold=float(PhaseState.DIVERGING),
    release=float(PhaseState.DIVERGING),
    severity="critical",
    event="instability",
    message=(
        "Training diverges, and that is no forecast: the loss or the parameters are no longer finite, or the loss "
        "was twice above ten times its start. Go back to a checkpoint before step {step} and use a lower learning rate "
        "or clip gradients."
    ),
)
