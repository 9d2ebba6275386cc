"""Attention is sharpening towards a collapse of its entropy (Zhai et al. 2023)."""

from shockwatch.alerts.rule import Rule

RULE = Rule(
    name="attention collapse ahead",
    tag="block/*/collapse_steps",
    threshold=100.0,
    direction="below",
    severity="warning",
    cooldown=50,
    forecast_tag="block/*/collapse_steps",
    message=(
        "{tag}: if they go on like this the logits of this attention block are ten times their first value "
        "{forecast}, where each query reads a single key; they may also level off by themselves. Lower the learning "
        "rate, normalise queries and keys, or decay their weights."
    ),
)
