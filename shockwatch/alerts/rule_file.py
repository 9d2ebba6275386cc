"""Alert rules from a YAML file."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import yaml

from shockwatch.alerts.rule import Rule
from shockwatch.alerts.rules import DEFAULT_RULES

_FIELDS = {field.name: field for field in dataclasses.fields(Rule)}
_REQUIRED = [name for name, field in _FIELDS.items() if field.default is dataclasses.MISSING]


def load_rules(path: str | Path) -> tuple[Rule, ...]:
    """Return the rules of a YAML file: a list whose items are the fields of a :class:`Rule`, or ``default``.

    ::

        - default                         # the default rules
        - name: head collapses
          tag: block/*/effective_rank
          direction: below
          threshold: 1.5
          message: "{tag} is down to {value}."

    Read with the safe loader: a file makes no objects and runs no code.

    Raises:
        ValueError: naming file, rule, field, value and what is allowed.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"alerts={str(path)!r}: cannot be read as a YAML file of rules ({error})") from error
    if not isinstance(content, list):
        raise ValueError(f"{path}: must hold a list of rules, not {type(content).__name__}")
    rules: list[Rule] = []
    for number, entry in enumerate(content, start=1):
        try:
            rules.extend(DEFAULT_RULES if entry == "default" else [_rule(entry)])
        except ValueError as error:
            name = f" ({entry['name']!r})" if isinstance(entry, dict) and "name" in entry else ""
            raise ValueError(f"{path}, rule {number}{name}: {error}") from error
    return tuple(rules)


def _rule(entry: Any) -> Rule:
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r}: must be 'default' or a mapping of the fields of a rule")
    for field in entry:
        if field not in _FIELDS:
            near = difflib.get_close_matches(str(field), _FIELDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"must be one of {', '.join(_FIELDS)}"
            raise ValueError(f"{field}={entry[field]!r}: not a field of a rule; {hint}")
    if missing := [name for name in _REQUIRED if name not in entry]:
        raise ValueError(f"lacks {', '.join(missing)}: name, tag, threshold and message are required")
    return Rule(**entry)
