"""The indicators of a run, put together."""

import math

import numpy as np
import pytest
import torch

from shockwatch.phase import PhaseIndicators, PhaseState
from shockwatch.tags import known_tag

STATISTICS = ("phase/variance", "phase/autocorrelation", "phase/trend")


def feed(indicators, speeds, first=0, tag="quotient/speed", extra=None):
    def values(i, speed):
        more = {} if extra is None else {"quotient/norm": float(speed), **extra[first + i]}
        return {tag: float(speed), **more}

    return [
        indicators.update(50 * (first + i), values(i, speed), loss=1.0, finite=True)
        for i, speed in enumerate(speeds)
    ]


def noisy(length: int, seed: int = 0) -> np.ndarray:
    return np.exp(0.2 * np.random.default_rng(seed).standard_normal(length) - 0.01 * np.arange(length))


def test_tags_are_the_contract_and_finite_from_the_third_observation_on():
    rows = feed(PhaseIndicators(), noisy(30))
    assert all(known_tag(tag) for tag in rows[0])
    assert len(rows[0]) == 8
    for i, row in enumerate(rows):
        assert all(math.isfinite(row[tag]) == (i >= 2) for tag in STATISTICS)
        assert math.isfinite(row["phase/variance_pvalue"]) == (i >= 15)
        assert row["phase/changepoint"] == 0.0
        assert row["phase/state"] == PhaseState.SMOOTH
        assert all(type(value) is float for value in row.values())


@pytest.mark.parametrize("scale", [1e-6, 8.0])
def test_the_unit_of_the_speed_does_not_matter(scale):
    rows, scaled = (feed(PhaseIndicators(), factor * noisy(60)) for factor in (1.0, scale))
    for row, other in zip(rows, scaled, strict=True):
        assert other == pytest.approx(row, rel=1e-6, abs=1e-9, nan_ok=True)


def test_exponential_decay_is_a_line():
    last = feed(PhaseIndicators(), np.exp(-0.1 * np.arange(20)))[-1]
    assert last["phase/variance"] == pytest.approx(0.0, abs=1e-20)
    assert last["phase/trend"] == pytest.approx(-1.0)


def test_a_jump_of_the_speed_is_a_change_point_once():
    speeds = noisy(80)
    speeds[50:] *= 20
    found = [i for i, row in enumerate(feed(PhaseIndicators(), speeds)) if row["phase/changepoint"]]
    assert len(found) == 1
    assert 50 <= found[0] < 60


def test_slowing_down_shows_as_variance_and_autocorrelation():
    rng = np.random.default_rng(4)
    level, series = 0.0, []
    for i in range(128):
        level = (0.0 if i < 64 else 0.95) * level + 0.1 * rng.standard_normal()
        series.append(math.exp(level))
    rows = feed(PhaseIndicators(), series)
    assert rows[127]["phase/variance"] > 1.5 * rows[63]["phase/variance"]
    assert rows[127]["phase/autocorrelation"] > rows[63]["phase/autocorrelation"] + 0.3


def test_norm_stands_in_where_there_is_no_speed():
    indicators = PhaseIndicators()
    rows = feed(indicators, noisy(10), tag="quotient/norm")
    assert math.isfinite(rows[-1]["phase/variance"])
    assert math.isnan(feed(indicators, noisy(1), first=10)[-1]["phase/variance"])


@pytest.mark.parametrize("value", [math.nan, 0.0, -1.0, math.inf])
def test_what_has_no_logarithm_leaves_the_window_alone(value):
    indicators = PhaseIndicators()
    before = feed(indicators, noisy(10))[-1]
    after = feed(indicators, [value], first=10)[-1]
    assert {tag: after[tag] for tag in STATISTICS} == {tag: before[tag] for tag in STATISTICS}


def test_broken_runs_stay_finite_and_say_so():
    indicators = PhaseIndicators()
    feed(indicators, noisy(5))
    row = indicators.update(300, {"quotient/speed": math.nan}, loss=math.nan, finite=False)
    assert row["phase/state"] == PhaseState.DIVERGING
    assert PhaseIndicators().update(0, {}, loss=1.0, finite=True)["phase/state"] == PhaseState.SMOOTH


def test_a_run_set_back_starts_the_window_anew():
    indicators = PhaseIndicators()
    feed(indicators, noisy(10))
    assert math.isnan(feed(indicators, noisy(1), first=3)[-1]["phase/variance"])


def test_resuming_from_a_checkpoint_changes_nothing(tmp_path):
    speeds = noisy(90, seed=7)
    speeds[40:] *= 5
    extra = [{"shock/lr_lambda_max": 0.4 + 0.02 * i, "quotient/viscosity": 1.0 + i % 3} for i in range(90)]
    whole = feed(PhaseIndicators(), speeds, extra=extra)
    assert sum(0 < row["phase/edge_steps"] < math.inf for row in whole) > 0
    assert math.isfinite(whole[-1]["phase/susceptibility"])
    for cut in (1, 41, 80):
        first, second = PhaseIndicators(), PhaseIndicators()
        rows = feed(first, speeds[:cut], extra=extra)
        torch.save(first.state_dict(), tmp_path / "state.pt")
        second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        rows += feed(second, speeds[cut:], first=cut, extra=extra)
        assert all(a == pytest.approx(b, nan_ok=True, rel=0, abs=0) for a, b in zip(rows, whole, strict=True))


def test_the_edge_is_at_two():
    def row(values: dict[str, float]) -> dict[str, float]:
        return PhaseIndicators().update(1, values, loss=1.0, finite=True)

    assert row({"shock/lr_lambda_max": 2.1})["phase/edge_steps"] == 0.0
    assert math.isnan(row({"shock/lr_lambda_max": 1.9})["phase/edge_steps"])
    assert math.isnan(row({"shock/lr_lambda_max": math.nan})["phase/edge_steps"])
    assert "phase/edge_steps" not in row({})


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="window=3"):
        PhaseIndicators(window=3)
    with pytest.raises(ValueError, match="mean_run_length=1"):
        PhaseIndicators(mean_run_length=1)
