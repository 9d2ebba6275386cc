from __future__ import annotations

from typing import Any

import pytest

from shockwatch.budget import ProbeSchedule, require_probe


def test_first_is_a_probe_then_the_budget_decides() -> None:
    schedule = ProbeSchedule("auto", 0.02)
    assert schedule.due(0, 5.0, 0.0, 0.0)
    assert not schedule.due(1, 0.03, 1.0, 0.0)
    assert schedule.due(2, 0.02, 1.0, 0.0)


def test_near_a_shock_four_times_as_much_is_allowed() -> None:
    schedule = ProbeSchedule("auto", 0.02)
    schedule.due(0, 0.0, 0.0, 0.0)
    assert not schedule.due(1, 0.08, 1.0, 0.49)
    assert schedule.due(1, 0.08, 1.0, 0.5)
    assert not schedule.due(1, 0.0801, 1.0, 5.0)


def test_auto_keeps_its_share_in_a_simulated_run() -> None:
    schedule, spent, probes = ProbeSchedule("auto", 0.02), 0.0, 0
    for index in range(20_000):
        if schedule.due(index, spent, 0.1 * index, 0.0) and index:
            spent, probes = spent + 0.5, probes + 1
    assert probes > 10
    assert spent / 2000.0 <= 0.02 + 0.5 / 2000.0


def test_every_nth_whatever_it_costs() -> None:
    schedule = ProbeSchedule(3, 0.02)
    assert [i for i in range(10) if schedule.due(i, 1e9, 1.0, 0.0)] == [0, 3, 6, 9]


def test_a_lost_probe_falls_to_the_next_snapshot() -> None:
    schedule = ProbeSchedule(3, 0.02)
    assert [i for i in (1, 2, 4, 5, 6, 7) if schedule.due(i, 0.0, 1.0, 0.0)] == [1, 4, 6]


def test_off_never() -> None:
    schedule = ProbeSchedule("off", 0.02)
    assert not any(schedule.due(i, 0.0, 1.0, 1.0) for i in range(5))


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "on", None])
def test_probe_is_validated(value: Any) -> None:
    with pytest.raises(ValueError, match="probe="):
        require_probe("probe", value)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan"), "a"])
def test_budget_is_validated(value: Any) -> None:
    with pytest.raises(ValueError, match="budget="):
        ProbeSchedule("auto", value)
