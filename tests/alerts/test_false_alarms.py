"""The default rules together keep to the rate that ``false_alarms`` promises, on noise that goes nowhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shockwatch.alerts import AlertManager
from shockwatch.phase import PhaseIndicators
from shockwatch.session import Settings

OBSERVATIONS = 2000


def false_alarms(level: float, spread: float, memory: float, settings: Settings) -> float:
    """Alerts per 10,000 steps, all tags being autoregressive noise; ``lr * lambda_max`` about ``level``."""
    rng = np.random.default_rng(1)
    phase, manager = PhaseIndicators(mean_run_length=settings.mean_run_length), AlertManager()
    noise, count = np.zeros(5), 0
    for i in range(1, OBSERVATIONS + 1):
        noise = memory * noise + math.sqrt(1.0 - memory**2) * rng.standard_normal(5)
        values = {
            "quotient/speed": math.exp(0.2 * noise[0]),
            "quotient/norm": 5.0 + 0.1 * noise[1],
            "quotient/viscosity": 1e-3,
            "shock/proximity": abs(0.25 * noise[2]),
            "shock/lr_lambda_max": level + spread * noise[3],
            "shock/lambda_max": 10.0,
            "shock/lambda_min": -0.1,
            "block/h.0/logit_norm": math.exp(0.1 * noise[4]),
            "block/h.0/effective_rank": 10.0 + noise[4],
        }
        step = i * settings.every_n_steps
        values |= phase.update(step, values, loss=1.0, finite=True)
        count += len(manager.update(step, values))
    return 1e4 * count / (OBSERVATIONS * settings.every_n_steps)


@pytest.mark.parametrize(
    ("level", "spread", "memory"),
    [(1.0, 0.1, 0.5), (1.6, 0.1, 0.9), (1.8, 0.05, 0.0)],
    ids=[
        "half way to the edge",
        "correlated, four spreads below the edge",
        "white, four spreads below the edge",
    ],
)
def test_at_most_twice_the_promised_rate(level: float, spread: float, memory: float) -> None:
    settings = Settings()
    assert false_alarms(level, spread, memory, settings) <= 2.0 * settings.false_alarms


def test_the_rate_is_not_kept_by_being_deaf() -> None:
    """The same noise about the edge itself is told at once, and again whenever it has been away."""
    assert false_alarms(2.1, 0.3, 0.5, Settings()) > 2.0
