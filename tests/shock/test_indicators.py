"""The ``shock/`` tags of single probes, against closed forms."""

import math

import pytest
import torch

from shockwatch.shock.indicators import ShockIndicators
from shockwatch.shock.probe import Probe, probe
from tests.shock.reduced_cases import TorchReducedLoss, deep_linear

NAMES = """lambda_min lambda_max time steps proximity rate reynolds strength arrival_steps arrival_error
    gradient_field local_entropy_gap forecast_score basin_gap burgers_residual"""
TAGS = {f"shock/{name}" for name in NAMES.split()}


def probed(function, point) -> Probe:
    return probe(TorchReducedLoss(function, point), None, torch.Generator().manual_seed(0))


def update(indicators, seen, **changes):
    arguments = {"step": 0, "training_time": 0.0, "time_per_step": 0.1, "viscosity": 0.01} | changes
    return indicators.update(seen, **arguments)


@pytest.fixture
def saddle() -> Probe:
    """``-2 x^2 / 2 + y^2 / 2 + x^4 / 4`` near its saddle."""
    return probed(
        lambda z: 1 - z[0] ** 2 + 0.5 * z[1] ** 2 + 0.25 * z[0] ** 4,
        torch.tensor([0.01, 0.02], dtype=torch.float64),
    )


@pytest.fixture
def bowl() -> Probe:
    return probed(lambda z: 0.5 * (z[0] ** 2 + 3 * z[1] ** 2), torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_saddle(saddle):
    values, notes = update(ShockIndicators(50), saddle, displacement_alignment=0.7, residual=0.2)
    assert set(values) == TAGS
    curvature, slope = -2 + 3e-4, -0.02 + 1e-6
    squared = slope**2 + 0.02**2
    assert values["shock/lambda_min"] == pytest.approx(curvature)
    assert values["shock/lambda_max"] == pytest.approx(1.0)
    assert values["shock/time"] == pytest.approx(-1 / curvature)
    assert values["shock/steps"] == pytest.approx(-10 / curvature)
    assert values["shock/rate"] == pytest.approx((curvature * slope**2 + 0.02**2) / squared)
    assert values["shock/reynolds"] == pytest.approx(squared / (-curvature * 0.01))
    assert values["shock/gradient_field"] == 0.7
    assert values["shock/burgers_residual"] == 0.2
    exact = math.log((2 / 0.01**2 - 1) / 2) / 4  # x' = 2 x - x^3, steepest at x^2 = 2 / 3
    assert values["shock/arrival_steps"] == pytest.approx(exact / 0.1, rel=0.01)
    assert values["shock/proximity"] == 0.0  # one probe is no evidence
    assert any(note.startswith("shock/arrival_steps: one probe") for note in notes)
    time = -0.5 / curvature  # half the breakdown time, shorter than the horizon
    quadratic = slope**2 / (1 + time * curvature) + 0.02**2 / (1 + time)
    logarithm = math.log(1 + time * curvature) + math.log(1 + time)
    weighted = (values["shock/local_entropy_gap"] + 0.5 * time * quadratic) / 0.01
    # the determinant is estimated from one draw: z_1^2 log(..) + z_2^2 log(..)
    assert abs(weighted - logarithm) < 5 * math.sqrt(2) * (math.log(2) + math.log(1.5))


def test_strength_of_the_saddle(saddle):
    """At tau = 1 the minimisers from the ridge of ``-x^2 + x^4 / 4`` are +-1: ``y^2 = 2 - 1 / tau``; jump 2 y / tau."""
    values, _ = update(ShockIndicators(50), saddle)
    assert values["shock/strength"] == pytest.approx(2.0, rel=0.02)
    # from x = 0.01 the basins differ by 2 x y / tau = 0.02 to first order in x
    assert values["shock/basin_gap"] == pytest.approx(0.02, rel=0.02)


def test_convex(bowl):
    values, notes = update(ShockIndicators(50), bowl)
    assert values["shock/time"] == values["shock/steps"] == math.inf
    assert values["shock/proximity"] == values["shock/strength"] == values["shock/reynolds"] == 0.0
    assert math.isnan(values["shock/arrival_steps"])
    for tag in ("arrival_error", "gradient_field", "basin_gap", "burgers_residual"):
        assert math.isnan(values["shock/" + tag])
    assert values["shock/rate"] == pytest.approx((1 + 27 * 4) / (1 + 36), rel=1e-6)
    assert any("no direction is unstable" in note for note in notes)


def test_unknown_clock_and_viscosity(saddle, bowl):
    for seen in (saddle, bowl):
        indicators = ShockIndicators(50)
        for step in (0, 1):
            values, notes = update(
                indicators,
                seen,
                step=step,
                training_time=step * 0.1,
                time_per_step=math.nan,
                viscosity=math.nan,
            )
            for tag in ("steps", "arrival_steps", "arrival_error", "reynolds", "local_entropy_gap"):
                assert math.isnan(values["shock/" + tag]), tag
            assert values["shock/proximity"] == 0.0
            assert bool(notes) == (step == 0) or seen is saddle
        assert math.isfinite(values["shock/lambda_min"])


def test_notes_only_when_they_change(bowl):
    indicators = ShockIndicators(50)
    assert update(indicators, bowl)[1]
    assert update(indicators, bowl, step=1, training_time=0.1)[1] == ()
    _, notes = update(indicators, bowl, step=2, training_time=0.2, viscosity=math.nan)
    assert [note.split(":")[0] for note in notes] == ["shock/local_entropy_gap", "shock/reynolds"]
    assert all("viscosity" in note and note.endswith(".") for note in notes)


def test_state_survives_a_checkpoint(tmp_path):
    function, point = deep_linear(0, 0.02)
    seen = probed(function, point)
    first = ShockIndicators(50)
    update(first, seen)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = ShockIndicators(50)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    later = {"step": 20, "training_time": 2.0}
    assert repr(update(second, seen, **later)) == repr(update(first, seen, **later))
    with pytest.raises(ValueError, match="forecaster"):
        second.load_state_dict({})


def test_horizon_is_checked():
    with pytest.raises(ValueError, match="horizon=0"):
        ShockIndicators(0)
