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
@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_noise_about_a_falling_loss_is_no_rise(seed, noise):
    assert first(falling(2000, noise, seed), 50) is None


def test_how_the_losses_are_parted_makes_no_difference():
    losses = falling(100)
    losses[[61, 63]] += 2.0
    assert first(losses, 1) == 64
    assert first(losses, 3) == 66
    assert first(losses, 50) == 100, "the last five of the block are as low as ever"


def test_a_steep_fall_is_no_noise():
    # 2.0 to 1.0 in steps of 0.1: no scatter about the trend, and the lowest mean of ten is 1.45
    fall = [2.0 - 0.1 * k for k in range(11)]
    assert first([*fall, 1.7, 1.7, 1.7], 1) is None
    assert first([*fall, 1.75, 1.75], 1) == 13


def test_the_noise_that_a_rise_brings_does_not_hide_it():
    rng = np.random.default_rng(0)
    growing = 1.0 + 0.02 * np.exp(0.02 * np.arange(200)) * np.abs(rng.standard_normal(200))
    assert first(growing, 1) < 150
    # in scatters of the noise of its own time it would never be high
    assert first(1.0 + 0.02 * np.abs(rng.standard_normal(200)), 1) is None


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


def test_a_state_without_a_scatter_is_taken_up() -> None:
    rise = LossRise()
    rise.load_state_dict({"seen": False, "lowest": 1.0, "past": [1.0] * 20})
    assert not rise.update([50.0] * 5)  # nothing says yet how much the loss scatters
    rise.update([0.5] * 10)
    assert rise.update([50.0] * 5)
