"""Rules from YAML: what may stand there, and what is said about what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from shockwatch import ShockWatch
from shockwatch.alerts import DEFAULT_RULES, AlertManager, Rule, load_rules

GOOD = """
- default
- name: head collapses
  tag: block/*/effective_rank
  direction: below
  threshold: 1.5
  patience: 3
  message: "{tag} is down to {value}."
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "rules.yaml"
    path.write_text(text)
    return path


def test_a_file_gives_the_rules_it_names(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    own = Rule(
        "head collapses", "block/*/effective_rank", 1.5, "{tag} is down to {value}.", "below", patience=3
    )
    assert load_rules(path) == (*DEFAULT_RULES, own)
    for given in (path, str(path)):
        manager = AlertManager(given)
        assert manager.rules == (*DEFAULT_RULES, own)
    ShockWatch(alerts=str(path))


def test_an_empty_list_raises_nothing(tmp_path: Path) -> None:
    assert AlertManager(write(tmp_path, "[]")).update(0, {"shock/proximity": 99.0}) == []


BAD = """
- name: a
  tag: raw/norm
  threshold: 1.0
  message: high
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a", r"rules\.yaml: must hold a list of rules, not dict"),
        ("", r"rules\.yaml: must hold a list of rules, not NoneType"),
        ("[", "cannot be read as a YAML file"),
        ("- 3", r"rules\.yaml, rule 1: 3: must be 'default' or a mapping"),
        ("- name: a", r"rule 1 \('a'\): lacks tag, threshold, message"),
        (BAD.replace("1.0", "high"), r"rule 1 \('a'\): threshold='high': must be a number"),
        (BAD.replace("raw/norm", "raw/nrm"), r"rule 1 \('a'\): tag='raw/nrm': .*did you mean 'raw/norm'"),
        (BAD + "  treshold: 2", "treshold=2: not a field of a rule; did you mean 'threshold'"),
        (BAD + "  zzz: 2", "zzz=2: not a field of a rule; must be one of name, tag"),
        (BAD + "  severity: loud", "severity='loud': must be one of 'info', 'warning', 'critical'"),
        (BAD + BAD.replace("1.0", "yes"), r"rule 2 \('a'\): threshold=True"),
        (BAD + BAD, "two rules share the name 'a'"),
        ("- !!python/object/apply:os.system ['true']", "cannot be read as a YAML file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlertManager(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"alerts='.*none\.yaml': must be 'default'.*no such file"):
        ShockWatch(alerts=tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="cannot be read"):
        load_rules(tmp_path / "none.yaml")
