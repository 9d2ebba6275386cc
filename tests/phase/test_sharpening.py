"""Attention collapse ahead of time, on series whose future is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from shockwatch.alerts import AlertManager
from shockwatch.phase.sharpening import COLLAPSE, Sharpening

TAG, LEFT = "block/layers.0.q-k/logit_norm", "block/layers.0.q-k/collapse_steps"
EVERY = 20


def foreseen(logits: list[float]) -> list[float]:
    sharpening = Sharpening()
    return [sharpening.update(EVERY * i, {TAG: value})[LEFT] for i, value in enumerate(logits)]


def alerts(logits: list[float]) -> list[int]:
    """Steps of the alerts of the default rules on this block alone."""
    sharpening, manager, found = Sharpening(), AlertManager(), []
    for i, value in enumerate(logits):
        values = sharpening.update(EVERY * i, {TAG: value})
        found += [alert.step for alert in manager.update(EVERY * i, values)]
    return found


def plateau_then(growth: list[float]) -> list[float]:
    return [0.3] * 6 + [0.3 * g for g in growth]


def test_exponential_growth_arrives_when_it_says() -> None:
    rate = 0.012
    found = foreseen([0.3 * math.exp(rate * EVERY * i) for i in range(12)])
    end = math.log(COLLAPSE) / rate
    assert all(math.isnan(value) for value in found[:3])
    for i in range(6, 10):
        assert found[i] == pytest.approx(end - EVERY * i)
    assert found[10:] == [0.0, 0.0]


def test_collapse_is_told_once_and_ahead() -> None:
    logits = plateau_then([math.exp(0.012 * EVERY * i) for i in range(20)])
    reached = EVERY * next(i for i, value in enumerate(logits) if value >= COLLAPSE * 0.3)
    (step,) = alerts(logits)
    assert 20 <= reached - step <= 100


@pytest.mark.parametrize(
    "logits",
    [
        [0.3] * 30,
        [0.3 * 1.002**i for i in range(60)],
        plateau_then([1 + 4 * (1 - math.exp(-i / 4)) for i in range(40)]),
        plateau_then([1 + 0.15 * i for i in range(30)]),
        [3.0 * 0.9**i for i in range(30)],
        [0.0] * 10 + [1e-3] * 10,
        list(0.3 * np.exp(0.1 * np.random.default_rng(0).standard_normal(500))),
        list(0.3 * np.exp(np.random.default_rng(1).standard_normal(500).cumsum() * 0.02)),
    ],
    ids=[
        "level",
        "slow",
        "saturates at five times",
        "linear",
        "falls",
        "zero at first",
        "noise",
        "random walk",
    ],
)
def test_healthy_attention_is_silent(logits: list[float]) -> None:
    assert alerts(logits) == []


def test_other_blocks_and_broken_values_say_nothing() -> None:
    assert Sharpening().update(0, {"block/0-1/spectral_norm": 1.0, "quotient/norm": 2.0}) == {}
    assert all(math.isnan(value) for value in foreseen([math.nan, math.inf, -1.0]))


def test_state_comes_back() -> None:
    logits = [0.3 * math.exp(0.012 * EVERY * i) for i in range(12)]
    first, second = Sharpening(), Sharpening()
    for i, value in enumerate(logits[:7]):
        first.update(EVERY * i, {TAG: value})
    second.load_state_dict(first.state_dict())
    for i, value in enumerate(logits[7:], 7):
        values = {TAG: value}
        assert first.update(EVERY * i, values) == second.update(EVERY * i, values)


@pytest.mark.parametrize("tokens", [6, 64, 1024])
def test_ten_times_logits_of_order_one_are_collapse(tokens: int) -> None:
    """The entropy that logits up to ``s`` allow (Zhai et al. 2023, theorem 3.1) falls to a quarter below ``s = 10``.

    Its oracle is the attention that attains it: one logit apart from equal others, by the full spread.
    """

    def bound(s: float) -> float:
        decay = math.exp(-s * math.sqrt(tokens / (tokens - 1)))
        others = (tokens - 1) * decay
        return math.log1p(others) + s * math.sqrt(tokens * (tokens - 1)) * decay / (1 + others)

    def attained(s: float) -> float:
        # logits of zero sum and norm s: the extremal direction of the theorem
        top, rest = s * math.sqrt((tokens - 1) / tokens), -s / math.sqrt(tokens * (tokens - 1))
        shares = np.exp(np.array([top, *[rest] * (tokens - 1)]) - top)
        shares /= shares.sum()
        return float(-(shares * np.log(shares)).sum())

    assert bound(3.0) == pytest.approx(attained(3.0))
    quarter = brentq(lambda s: bound(s) - math.log(tokens) / 4, 1.0, 20.0)
    assert 3.0 < quarter < COLLAPSE
