from __future__ import annotations

from typing import Any

import pytest

from shockwatch.budget import ProbeSchedule, SnapshotSchedule, Spending, require_probe


def test_the_budget_decides_about_the_first_probe_as_about_the_others() -> None:
    schedule = ProbeSchedule("auto", 0.02)
    assert not schedule.due(0, Spending(5.0, 1.0))
    assert schedule.first_at(Spending(5.0, 1.0)) == pytest.approx(250.0)
    assert not schedule.due(1, Spending(5.0, 249.0))
    assert schedule.due(2, Spending(5.0, 250.0))
    assert not schedule.due(3, Spending(10.0, 499.0))
    assert schedule.due(4, Spending(10.0, 500.0))
    assert schedule.first_at(Spending(20.0, 500.0)) is None, "that was not the first"


@pytest.mark.parametrize("mode", ["off", 3])
def test_only_a_schedule_that_follows_the_budget_waits(mode: Any) -> None:
    assert ProbeSchedule(mode, 0.02).first_at(Spending(5.0, 1.0)) is None


def test_near_a_shock_four_times_as_much_is_allowed() -> None:
    schedule = ProbeSchedule("auto", 0.02)
    schedule.due(0, Spending(0.0, 0.0))
    assert not schedule.due(1, Spending(8.0, 100.0, 0.49))
    assert schedule.due(1, Spending(8.0, 100.0, 0.5))
    assert not schedule.due(1, Spending(8.01, 100.0, 5.0))


def test_what_ten_seconds_allow_may_be_spent_at_once() -> None:
    assert Spending(0.2, 0.0).within(0.02)
    assert not Spending(0.201, 0.0).within(0.02)
    assert not Spending(0.201, 10.0).within(0.02)
    assert Spending(0.201, 10.1).within(0.02)


@pytest.mark.parametrize("cost", [0.004, 0.1, 2.0])
@pytest.mark.parametrize("more", [0.1, 1.0, 7.0])
def test_a_simulated_run_keeps_its_budget_and_still_probes(cost: float, more: float) -> None:
    budget, end = 0.02, 6000.0
    snapshots, probes = SnapshotSchedule("auto", budget), ProbeSchedule("auto", budget)
    plain = spent = 0.0
    taken = probed = 0
    for now in range(1, 12_000):  # half a second between two proposals
        elapsed = 0.5 * now
        if not snapshots.due(Spending(plain + cost, elapsed)):
            continue
        probe = probes.due(taken, Spending(spent + cost + more, elapsed))
        taken += 1
        if taken > 1:  # the first is set-up
            plain, spent, probed = plain + cost, spent + cost + probe * more, probed + probe
        assert spent <= budget * max(elapsed, 10.0) * 1.5 + cost
        if elapsed > 100.0:
            assert spent <= budget * elapsed + cost
    # a snapshot that costs less than half of the budget is never left out, dearer ones take half of it
    assert taken == pytest.approx(min(11_999, 1 + 0.5 * budget * end / cost), abs=1.0)
    # and the rest goes to probes, as far as there are snapshots
    assert probed == pytest.approx(min(taken - 1, (budget * end - plain) / more), abs=2.0)


def test_a_budget_of_one_takes_every_snapshot() -> None:
    assert SnapshotSchedule("auto", 1.0).due(Spending(1e9, 1.0))
    assert not SnapshotSchedule("auto", 0.99).due(Spending(1e9, 1.0))


@pytest.mark.parametrize(("mode", "allowed"), [("auto", 1.0), ("off", 2.0)])
def test_half_is_left_for_probes_that_follow_the_budget(mode: Any, allowed: float) -> None:
    schedule = SnapshotSchedule(mode, 0.02)
    assert schedule.due(Spending(allowed, 100.0))
    assert not schedule.due(Spending(allowed + 0.01, 100.0))


def test_probes_at_a_pace_of_the_users_own_need_every_snapshot() -> None:
    assert SnapshotSchedule(3, 0.02).due(Spending(1e9, 1.0))


def test_every_nth_whatever_it_costs() -> None:
    schedule = ProbeSchedule(3, 0.02)
    assert [i for i in range(10) if schedule.due(i, Spending(1e9, 1.0))] == [0, 3, 6, 9]


def test_a_lost_probe_falls_to_the_next_snapshot() -> None:
    schedule = ProbeSchedule(3, 0.02)
    assert [i for i in (1, 2, 4, 5, 6, 7) if schedule.due(i, Spending(0.0, 1.0))] == [1, 4, 6]


def test_off_never() -> None:
    schedule = ProbeSchedule("off", 0.02)
    assert not any(schedule.due(i, Spending(0.0, 1.0, 1.0)) for i in range(5))


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "on", None])
def test_probe_is_validated(value: Any) -> None:
    with pytest.raises(ValueError, match="probe="):
        require_probe("probe", value)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan"), "a"])
def test_budget_is_validated(value: Any) -> None:
    with pytest.raises(ValueError, match="budget="):
        ProbeSchedule("auto", value)
