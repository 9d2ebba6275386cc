"""The measured residual of the 1-D equation against its closed form."""

import math

import pytest
import torch

from shockwatch.shock.probe import Probe, probe
from shockwatch.shock.residual import burgers_residual
from tests.shock.reduced_cases import TorchReducedLoss, deep_linear


def seen(function, point) -> tuple[TorchReducedLoss, Probe]:
    reduced = TorchReducedLoss(function, torch.tensor(point, dtype=torch.float64))
    return reduced, probe(reduced, None, torch.Generator().manual_seed(0), tolerance=1e-9)


def measured(reduced, found, viscosity=0.0, pairs=3):
    return burgers_residual(reduced, found, viscosity, torch.Generator().manual_seed(1), pairs)


def well(x):
    return 0.25 * (1 - x**2) ** 2


def test_a_loss_that_splits_obeys_the_equation():
    reduced, found = seen(lambda z: well(z[0]) + 2 * z[1] ** 2 + z[2].cosh(), [0.01, 0.02, 0.3])
    # the slice follows the Ritz vector to 1e-9, the step across has its own rounding
    assert measured(reduced, found) < 1e-6
    assert measured(reduced, found, 0.1) < 1e-6


@pytest.mark.parametrize("viscosity", [0.0, 0.05])
@pytest.mark.parametrize("bend", [0.1, 1.0])
def test_a_bent_valley_against_its_closed_form(bend, viscosity):
    """``L = well(x) + (y - bend x^2)^2 / 2 + x^2 y^2 / 2``: on ``y = 0`` ``L_y = -bend x^2``, ``L_yy = 1 + x^2``."""
    reduced, found = seen(
        lambda z: well(z[0]) + 0.5 * (z[1] - bend * z[0] ** 2) ** 2 + 0.5 * z[0] ** 2 * z[1] ** 2, [1e-4, 0.0]
    )
    x = torch.as_tensor(found.slice.positions[::8]) * float(found.direction[0]) + 1e-4
    slope = x**3 - x + 2 * bend**2 * x**3
    along = 0.5 * slope**2 - viscosity * (3 * x**2 - 1 + 6 * bend**2 * x**2)
    across = 0.5 * bend**2 * x**4 - viscosity * (1 + x**2)
    sizes = [float(part.std(unbiased=False)) for part in (across, along)]
    # one direction across: slope and bend are those along it, times xi^2 in the mean over many
    assert measured(reduced, found, viscosity, 1500) == pytest.approx(sizes[0] / sum(sizes), rel=0.1)


def test_unknown_viscosity_counts_as_none():
    reduced, found = seen(lambda z: well(z[0]) + 0.5 * (z[1] - z[0] ** 2) ** 2, [0.01, 0.02])
    assert measured(reduced, found, math.nan) == measured(reduced, found, 0.0)


def test_no_slice():
    reduced, found = seen(lambda z: (z**2).sum(), [0.3, 0.2])
    assert math.isnan(measured(reduced, found))


def test_deep_linear_plateau_obeys_the_equation():
    """Before a transition the other modes do not come in; few products' worth of forward passes."""
    function, point = deep_linear(20, 0.02)
    calls = []

    def counted(x):
        calls.append(x)
        return function(x)

    found = probe(TorchReducedLoss(function, point), None, torch.Generator().manual_seed(0))
    value = measured(TorchReducedLoss(counted, point), found)
    assert 0.0 <= value < 0.3
    assert len(calls) == 30
