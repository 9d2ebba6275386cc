"""Argument checks: the value comes back, or the message says the name, the value and what it may be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockwatch.errors import require_choice, require_float, require_positive_int


@given(st.integers(min_value=1))
def test_a_positive_int_comes_back(value):
    assert require_positive_int("n", value) == value


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
def test_not_a_positive_int(value):
    with pytest.raises(ValueError, match=r"every_n_steps=.*: must be an integer >= 1") as raised:
        require_positive_int("every_n_steps", value)
    assert repr(value) in str(raised.value)


@given(st.floats(allow_nan=False))
def test_any_number_is_a_float_without_bounds(value):
    assert require_float("x", value) == value


def test_an_int_becomes_a_float():
    assert isinstance(require_float("x", 3), float)


def test_bounds_are_closed_unless_told():
    assert require_float("x", 0.0, 0.0, 1.0) == 0.0
    assert require_float("x", 1.0, 0.0, 1.0, open_low=True) == 1.0
    with pytest.raises(ValueError, match=r"x=0\.0: must be a number in \(0, 1\]"):
        require_float("x", 0.0, 0.0, 1.0, open_low=True)
    with pytest.raises(ValueError, match=r"x=1\.5: must be a number in \[0, 1\]"):
        require_float("x", 1.5, 0.0, 1.0)


@pytest.mark.parametrize("value", [math.nan, True, "1", None, [1.0], np.ones(1)])
def test_not_a_number(value):
    with pytest.raises(ValueError, match="must be a number"):
        require_float("x", value, 0.0, 2.0)


def test_choice():
    assert require_choice("action", "stop", ("stop", "both")) == "stop"
    with pytest.raises(ValueError, match="action='halt': must be one of 'stop', 'both'"):
        require_choice("action", "halt", ("stop", "both"))
    with pytest.raises(ValueError, match="action=None"):
        require_choice("action", None, ("stop",))
