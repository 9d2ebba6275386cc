"""The pace of SGD on a growing mode, against the iteration itself."""

import math

import numpy as np
import pytest
import torch

from shockwatch.pace import Pace


@pytest.mark.parametrize(
    ("momentum", "nesterov"),
    [(0.0, False), (0.5, False), (0.9, False), (0.99, False), (0.5, True), (0.9, True), (0.99, True)],
)
@pytest.mark.parametrize("growth", [0.3, 4.0, 40.0])
def test_growth_of_a_mode(growth, momentum, nesterov):
    """Many steps of ``torch.optim.SGD`` down ``-growth x^2 / 2``, once the transient is gone."""
    x = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=0.01, momentum=momentum, nesterov=nesterov)
    logs = []
    for _ in range(1500):
        optimizer.zero_grad()
        (-0.5 * growth * x.square()).backward()
        optimizer.step()
        logs.append(math.log(abs(x.item())))
        if logs[-1] > 300:
            break
    half = len(logs) // 2
    per_step = (logs[-1] - logs[half]) / (len(logs) - 1 - half)
    pace = Pace(0.01, momentum, nesterov)
    lag = float(pace.lag(np.array([growth]))[0])
    assert lag * growth * pace.time_per_step == pytest.approx(per_step, rel=1e-6)
    assert 0.0 < lag <= 1.0


def test_slow_modes_follow_the_flow():
    lag = Pace(0.1, 0.9).lag(np.array([1e-12, 1e-9]))
    assert lag == pytest.approx([1.0, 1.0], abs=1e-6)
