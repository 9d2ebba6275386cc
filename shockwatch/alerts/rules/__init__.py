"""The default rules, one file each. A new rule is a file here and a line in ``DEFAULT_RULES``.

They are few on purpose: a smooth, healthy run raises none.
"""

from shockwatch.alerts.rule import Rule
from shockwatch.alerts.rules import (
    attention_collapse,
    beyond_edge,
    divergence,
    edge_ahead,
    edge_of_stability,
    rank_collapse,
    transition_ahead,
)

DEFAULT_RULES: tuple[Rule, ...] = (
    divergence.RULE,
    transition_ahead.RULE,
    edge_ahead.RULE,
    edge_of_stability.RULE,
    beyond_edge.RULE,
    attention_collapse.RULE,
    rank_collapse.RULE,
)

__all__ = ["DEFAULT_RULES"]
