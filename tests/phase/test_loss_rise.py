"""A loss that climbs although it should fall: told, and told apart from noise and from one broken batch."""

import math

import numpy as np
import pytest

from shockwatch.phase.loss_rise import LossRise


def falling(count: int, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    return np.exp(-0.02 * np.arange(count)) + 0.3 + noise * np.random.default_rng(seed).standard_normal(count)


def first(losses, block: int = 10) -> int | None:
    """The step after which a rise is told."""
    rise = LossRise()
    for start in range(0, len(losses), block):
        if rise.update([float(loss) for loss in losses[start : start + block]]):
            return start + block
    return None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("block", [5, 50])
def test_noise_about_a_falling_loss_is_no_rise(seed, block):
    assert first(falling(2000, 0.05, seed), block) is None


def test_a_loss_that_runs_away_is_told_within_a_block():
    losses = falling(100)
    losses[60:] += 0.3 * np.arange(40)
    assert first(losses) == 70
    assert first([1.0, 0.9, 0.8, 0.7, 0.6, math.nan, math.nan], 5) == 10
    assert first([-1.0, -1.1, -1.2, -1.3, -1.4, -0.5, -0.4], 5) == 10, "a loss below zero"


def test_one_broken_batch_is_no_rise_and_two_are():
    losses = falling(100)
    losses[57] = 40.0
    assert first(losses) is None
    losses[58] = 40.0
    assert first(losses) == 60


def test_what_was_seen_stays_seen_and_survives_a_checkpoint():
    rise, other = LossRise(), LossRise()
    for losses in ([1.0, 0.9, 0.8], [0.7, 0.6, 0.5], [0.5, 2.0]):
        assert not rise.update(losses)
    other.load_state_dict(rise.state_dict())
    assert rise.update([2.0])
    assert other.update([2.0])
    assert rise.update([0.1] * 9)
    other.load_state_dict(rise.state_dict())
    assert other.seen
    assert not LossRise().update([])
