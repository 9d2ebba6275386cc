from __future__ import annotations

import math

import pytest
import torch

from shockwatch.clock import TrainingClock


def parameter() -> torch.nn.Parameter:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2)
    return weight


def test_momentum_stretches_the_clock_and_the_largest_group_leads() -> None:
    groups = [{"params": [parameter()], "lr": 0.1}, {"params": [parameter()], "lr": 0.2, "momentum": 0.0}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    clock = TrainingClock()
    clock.listen([optimizer])
    for _ in range(3):
        optimizer.step()
    clock.stop()
    optimizer.step()
    assert clock.training_time == pytest.approx(3.0)
    assert clock.time_per_step == pytest.approx(1.0)
    assert clock.learning_rate == 0.2


def test_adam_has_no_time_per_step() -> None:
    optimizer = torch.optim.AdamW([parameter()], lr=0.01)
    clock = TrainingClock()
    clock.listen([optimizer])
    optimizer.step()
    optimizer.step()
    assert clock.training_time == pytest.approx(0.02)
    assert math.isnan(clock.time_per_step)


def test_the_rate_of_the_step_counts_not_the_next_one() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    clock = TrainingClock()
    clock.listen([optimizer])
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert clock.training_time == pytest.approx(1.75)
    twin = TrainingClock()
    twin.load_state_dict(clock.state_dict())
    assert twin.state_dict() == clock.state_dict()


def test_a_strange_optimizer_does_not_fail_its_step() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1, momentum=0.5)
    clock = TrainingClock()
    clock.listen([optimizer])
    optimizer.param_groups[0]["momentum"] = 1.0
    optimizer.step()
    assert math.isnan(clock.time_per_step)
