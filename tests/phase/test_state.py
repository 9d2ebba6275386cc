"""The phases of training, on runs with a known story."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockwatch.phase import PhaseMachine, PhaseState
from shockwatch.phase.hysteresis import Hysteresis

SMOOTH, APPROACHING, SHOCK, RELAXED, CONVERGED, DIVERGING = PhaseState


def run(observations, machine=None) -> list[PhaseState]:
    machine = PhaseMachine() if machine is None else machine
    return [machine.update(**{"finite": True, "loss": 1.0, **observation}) for observation in observations]


def distinct(states) -> list[PhaseState]:
    return [state for i, state in enumerate(states) if i == 0 or states[i - 1] is not state]


def transition() -> list[dict[str, float]]:
    """A saddle: speed grows e-fold per observation, peaks, decays; proximity rises and collapses."""
    quiet = [{"proximity": 0.0, "speed": 0.1}] * 5
    approach = [{"proximity": 1.5, "speed": 0.1 * math.exp(0.2 * i)} for i in range(10)]
    fall = [{"proximity": 0.0, "speed": math.exp(-0.3 * i)} for i in range(20)]
    return quiet + approach + fall


def test_codes_are_the_contract():
    assert [int(state) for state in PhaseState] == list(range(6))
    assert [state.name.lower() for state in PhaseState] == (
        ["smooth", "approaching", "shock", "relaxed", "converged", "diverging"]
    )


def test_a_transition_tells_its_story():
    assert distinct(run(transition())) == [SMOOTH, APPROACHING, SHOCK, RELAXED, SMOOTH]


def test_two_transitions_in_a_row():
    story = transition()[:-8] + transition()[5:]
    assert distinct(run(story)) == [SMOOTH, APPROACHING, SHOCK, RELAXED, APPROACHING, SHOCK, RELAXED, SMOOTH]


def test_an_approach_that_comes_to_nothing_ends_smooth():
    story = [{"proximity": 1.2, "speed": 1.0}] * 4 + [{"proximity": 0.1, "speed": 1.0}] * 4
    assert distinct(run(story)) == [SMOOTH, APPROACHING, SMOOTH]


def test_a_single_high_proximity_is_not_an_approach():
    assert set(run([{"proximity": p, "speed": 1.0} for p in (0, 3, 0, 3, 0, 0.9, 0.9)])) == {SMOOTH}


def test_proximity_between_the_levels_does_not_flicker():
    story = [{"proximity": p, "speed": 1.0} for p in (1.1, 1.1, 0.9, 0.6, 0.9, 0.6, 0.7)]
    assert run(story)[1:] == [APPROACHING] * 6


def test_no_probe_changes_nothing_but_an_unsupported_one_ends_the_claim():
    near = [{"proximity": 1.1, "speed": 1.0}] * 2
    assert run(near + [{"speed": 1.0}] * 9)[-1] is APPROACHING
    assert run(near + [{"proximity": math.nan, "speed": 1.0}] * 3)[-1] is SMOOTH


def test_slow_is_converged_unless_the_curvature_says_plateau():
    fast, slow = [{"speed": 1.0}] * 3, {"speed": 5e-4}
    assert run(fast + [slow] * 3)[-2:] == [SMOOTH, CONVERGED]
    assert run([*fast, *[slow] * 3, {"speed": 5e-3}])[-1] is CONVERGED
    assert run([*fast, *[slow] * 3, {"speed": 0.1}])[-1] is SMOOTH
    plateau = {**slow, "lambda_min": -0.5, "lambda_max": 4.0}
    assert run(fast + [plateau] * 9)[-1] is SMOOTH
    assert run(fast + [{"speed": 0.0}] * 3)[-1] is CONVERGED


@pytest.mark.parametrize(
    "bad", [{"finite": False}, {"loss": math.nan}, {"loss": math.inf}, {"loss": -math.inf}]
)
def test_what_is_not_finite_diverges_at_once_and_stays_a_while(bad):
    assert run([{}, bad, {}, {}, {}, {}]) == [SMOOTH, DIVERGING, DIVERGING, DIVERGING, SMOOTH, SMOOTH]


def test_a_loss_far_above_its_start_diverges():
    start = [{"loss": loss} for loss in (2.0, 2.5, 2.2, 1.9, 1.8)]
    assert run([*start, {"loss": 26.0}, {"loss": 1.0}, {"loss": 26.0}])[-3:] == [SMOOTH] * 3
    assert run([*start, {"loss": 26.0}, {"loss": 30.0}])[-1] is DIVERGING


def test_a_loss_that_may_be_negative_has_no_level():
    assert set(run([{"loss": -3.0}] * 5 + [{"loss": 50.0}] * 5)) == {SMOOTH}


@given(st.lists(st.tuples(*[st.floats()] * 3), max_size=40), st.integers(0, 40))
def test_any_numbers_give_a_phase_and_survive_a_checkpoint(rows, cut):
    story = [{"loss": loss, "proximity": near, "speed": speed} for loss, near, speed in rows]
    whole = run(story)
    first, second = PhaseMachine(), PhaseMachine()
    head = run(story[:cut], first)
    second.load_state_dict(first.state_dict())
    assert head + run(story[cut:], second) == whole


def test_hysteresis_needs_consecutive_values():
    switch = Hysteresis(enter=1.0, leave=0.5, patience_enter=2, patience_leave=2)
    values = [1.0, 0.9, 1.0, 1.0, 0.4, 0.6, 0.4, math.nan]
    assert [switch.update(value) for value in values] == [False, False, False, True, True, True, True, False]
