"""Pictures of an event: real PNGs of what they claim, without touching pyplot."""

from __future__ import annotations

import io
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import torch

from shockwatch.figures import can_draw, forecast_picture, heads_picture, slice_picture
from shockwatch.shock.slice import take_slice
from shockwatch.symmetry import infer_symmetries
from tests.symmetry.cases import BY_NAME


def pixels(picture):
    image = matplotlib.image.imread(io.BytesIO(picture.png), format="png")
    assert image.shape[:2] == (picture.height, picture.width)
    return image


def red_rows(image):
    """Rows in which the red of the actual event dominates."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return np.flatnonzero(((red > 0.7) & (green < 0.3) & (blue < 0.3)).sum(1) > 50)


@pytest.fixture
def cosine():
    # from just beside the top of a hill: L = cos s
    return take_slice(lambda s: float(np.cos(s + 0.1)), -np.sin(0.1), -np.cos(0.1))


@pytest.mark.parametrize("viscosity", [0.0, 0.05, float("nan")])
def test_slice(cosine, viscosity):
    picture = slice_picture(cosine, viscosity, 100, 30.0, 4.0)
    assert picture.tag == "shockwatch/slice"
    assert pixels(picture).std() > 0.05


def test_slice_without_a_forecast(cosine):
    assert pixels(slice_picture(cosine, 0.0, 100, float("nan"), float("nan"))).std() > 0.05


def test_forecast_line_stands_at_the_event():
    # one figure, the event moved up: its line moves up too
    forecasts = [(0, 100.0, 20.0), (50, 52.0, 5.0)]
    low, high = (red_rows(pixels(forecast_picture(forecasts, event)))[0] for event in (85, 115))
    assert high < low
    with pytest.raises(ValueError, match="forecasts is empty"):
        forecast_picture([], 3)


def test_heads():
    case = BY_NAME["attention"]
    model = case.model()
    quotient = infer_symmetries(model, case.loss, case.data())
    state = quotient.canonicalize(dict(model.named_parameters()))
    assert pixels(heads_picture(quotient, state, 5)).std() > 0.03


def test_no_blocks_no_picture():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    batch = torch.randn(5, 3).double()
    quotient = infer_symmetries(model, lambda m, b: m(b).square().mean(), batch)
    assert heads_picture(quotient, quotient.canonicalize(dict(model.named_parameters())), 0) is None


def test_pyplot_stays_the_users():
    assert can_draw()
    code = (
        "import sys; from shockwatch.figures import forecast_picture; forecast_picture([(0, 9.0, 1.0)], 9); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
