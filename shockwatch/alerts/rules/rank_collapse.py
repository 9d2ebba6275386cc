"""A block that used many directions is down to one.

Small blocks, and small networks that learn one direction after another, are at rank one for good
reasons; hence the rule judges only blocks that have used more than eight directions, and waits for five
observations.
"""

from shockwatch.alerts.rule import Rule

RULE = Rule(
    name="rank collapse",
    tag="block/*/effective_rank",
    threshold=1.05,
    direction="below",
    release=2.0,
    armed_by=8.0,
    patience=5,
    severity="warning",
    message=(
        "{tag} has been at most {threshold} five times running and is {value}: this block now uses a single "
        "direction, as when attention collapses. Try a lower learning rate, weight decay on its weights or normalised "
        "queries and keys."
    ),
)
