"""The contract of scalar tags."""

import re
from pathlib import Path

import pytest

from shockwatch.tags import PATTERNS, TAGS, describe, known_tag, require_known_tag

CONTRACT = {
    "quotient": "norm speed path_length viscosity distance_from_start measure_speed",
    "raw": "norm speed drift lr_lambda_max",
    "shock": "lambda_min lambda_max lr_lambda_max time steps proximity rate reynolds strength arrival_steps "
    "arrival_error forecast_score trajectory_steps gradient_field local_entropy_gap basin_gap burgers_residual",
    "phase": "changepoint variance autocorrelation trend state variance_pvalue autocorrelation_pvalue "
    "susceptibility edge_steps edge_error",
    "shockwatch": "lag_steps dropped worker_seconds overhead errors lr_factor",
}


def test_tags_are_exactly_the_contract():
    assert set(TAGS) == {f"{group}/{name}" for group, names in CONTRACT.items() for name in names.split()}


def test_every_tag_has_one_plain_line_and_a_unit():
    for tag in [*TAGS.values(), *PATTERNS.values()]:
        assert tag.meaning.endswith(".")
        assert "\n" not in tag.meaning
        assert tag.unit


@pytest.mark.parametrize(
    "tag",
    [
        "quotient/speed",
        "raw/imbalance/layers.0.mlp",
        "block/h.0.attn/qk/0/spectral_norm",
        "block/x/stable_rank",
        "block/x/effective_rank",
    ],
)
def test_known(tag):
    assert known_tag(tag)
    assert require_known_tag("monitor", tag) == tag
    assert describe(tag) is not None


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "speed",
        "quotient/Speed",
        "raw/imbalance/",
        "block//stable_rank",
        "block/stable_rank",
        "block/x/rank",
    ],
)
def test_unknown(tag):
    assert not known_tag(tag)
    with pytest.raises(ValueError, match=re.escape(f"monitor={tag!r}")):
        require_known_tag("monitor", tag)


@pytest.mark.parametrize("tag", [None, 3, ["quotient/speed"]])
def test_not_even_a_string(tag):
    with pytest.raises(ValueError, match="not a tag"):
        require_known_tag("monitor", tag)


def test_a_slip_of_the_pen_is_answered_with_the_tag_that_was_meant():
    with pytest.raises(ValueError, match="did you mean 'shock/proximity'"):
        require_known_tag("monitor", "shock/proximty")
    with pytest.raises(ValueError, match="block/<name>/effective_rank"):
        require_known_tag("monitor", "block/effective_rank")


def test_the_source_lists_no_tag_twice():
    source = Path(__file__).parents[1] / "shockwatch" / "tags.py"
    names = re.findall(r'^    "([a-z_/]+)": Tag', source.read_text(), flags=re.MULTILINE)
    assert len(names) == len(set(names)) == len(TAGS)
