"""Attention is sharpening towards a collapse of its entropy (Zhai et al. 2023)."""

from shockwatch.alerts.rule import Rule

RULE = Rule(
    name="attention collapse ahead",
    tag="block/*/collapse_steps",
    threshold=100.0,
    direction="below",
    severity="warning",
    cooldown=50,
    message=(
        "{tag} is {value}: at this pace the logits of this attention block grow tenfold over their start, where "
        "each query reads a single key; lower the learning rate, normalise queries and keys, or decay their weights."
    ),
)
