from __future__ import annotations

import math

import pytest
import torch

from shockwatch.clock import TrainingClock, coupled_weight_decay, stability_rate
from shockwatch.pace import Pace


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


def test_dampening_slows_the_clock() -> None:
    """What one gradient moves in the end, under any number of steps, is the time of its step."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.5, dampening=0.4)
    clock = TrainingClock()
    clock.listen([optimizer])
    for slope in [0.0, 1.0] + 60 * [0.0]:  # the first gradient of a run is not dampened
        weight.grad = torch.full((1,), slope, dtype=torch.float64)
        optimizer.step()
    assert clock.time_per_step == pytest.approx(-weight.item())
    assert clock.pace == Pace(0.1 * 0.6, 0.5)


def test_adam_has_no_time_per_step() -> None:
    optimizer = torch.optim.AdamW([parameter()], lr=0.01)
    clock = TrainingClock()
    clock.listen([optimizer])
    optimizer.step()
    optimizer.step()
    assert clock.training_time == pytest.approx(0.02)
    assert math.isnan(clock.time_per_step)
    assert clock.pace is None


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


class _Outer(torch.optim.SGD):
    """Calls the hooked step of its parent, which fails where it is told to."""

    fails = False

    def step(self, closure=None):
        loss = super().step(closure)
        if self.fails:
            raise ArithmeticError("half way")
        return loss


def test_a_step_within_a_step_counts_once() -> None:
    torch.optim.SGD([parameter()], lr=1.0)  # torch hooks a class when its first optimiser is made
    optimizer, other = _Outer([parameter()], lr=0.1), torch.optim.SGD([parameter()], lr=1.0)
    calls, clock = [], TrainingClock()
    clock.listen([optimizer, other])
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    optimizer.step()
    assert len(calls) == 2, "the hooks are not called for both steps: the test has lost its case"
    assert clock.training_time == pytest.approx(0.1)
    optimizer.fails = True
    with pytest.raises(ArithmeticError):
        optimizer.step()
    optimizer.fails = False
    optimizer.step()
    assert clock.training_time == pytest.approx(0.2)

    def closure() -> float:
        other.step()
        return 0.0

    optimizer.step(closure)
    assert clock.training_time == pytest.approx(0.3 + 1.0), "another optimiser's step within is its own"


def test_a_strange_optimizer_does_not_fail_its_step() -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1, momentum=0.5)
    clock = TrainingClock()
    clock.listen([optimizer])
    optimizer.param_groups[0]["momentum"] = 1.0
    optimizer.step()
    assert math.isnan(clock.time_per_step)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.5, "dampening": 0.5},
        {"momentum": 0.9, "dampening": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.3, "nesterov": True},
    ],
    ids=str,
)
def test_two_is_the_edge_of_stability(options: dict[str, float]) -> None:
    """On ``curvature x^2 / 2`` torch's own optimiser shrinks 1 % below the edge and grows 1 % above it."""
    curvature = 3.0
    for load, grows in ((1.98, False), (2.02, True)):
        weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        unit = stability_rate(torch.optim.SGD([weight], lr=1.0, **options))
        optimizer = torch.optim.SGD([weight], lr=load / (unit * curvature), **options)
        assert stability_rate(optimizer) * curvature == pytest.approx(load)
        for _ in range(3000):
            weight.grad = curvature * weight.detach()
            optimizer.step()
        assert (abs(float(weight.detach())) > 1e3) is grows


def test_the_edge_is_unknown_beyond_gradient_descent() -> None:
    assert math.isnan(stability_rate(torch.optim.AdamW([parameter()], lr=0.1)))
    assert math.isnan(stability_rate(torch.optim.SGD([parameter()], lr=0.1, maximize=True)))
    groups = [{"params": [parameter()], "lr": 0.1}, {"params": [parameter()], "lr": 0.3}]
    assert stability_rate(torch.optim.SGD(groups, lr=0.1, momentum=0.5)) == pytest.approx(0.2)


def test_only_coupled_weight_decay_counts() -> None:
    optim = torch.optim
    assert coupled_weight_decay(optim.SGD([parameter()], lr=0.1)) == 0.0
    assert coupled_weight_decay(optim.SGD([parameter()], lr=0.1, weight_decay=0.2)) == 0.2
    assert coupled_weight_decay(optim.Adam([parameter()], weight_decay=0.2)) == 0.2
    assert coupled_weight_decay(optim.AdamW([parameter()], weight_decay=0.2)) == 0.0
    groups = [{"params": [parameter()], "weight_decay": 0.0}, {"params": [parameter()]}]
    assert math.isnan(coupled_weight_decay(optim.SGD(groups, lr=0.1, weight_decay=0.2)))


@pytest.mark.parametrize(
    ("setting", "value"), [("lr", 0.05), ("momentum", 0.5), ("weight_decay", 0.1), ("maximize", True)]
)
def test_a_setting_that_changes_in_mid_run_is_read_again(setting: str, value: float) -> None:
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    clock = TrainingClock()
    clock.listen([optimizer])
    optimizer.step()
    optimizer.param_groups[0][setting] = value
    optimizer.step()
    clock.stop()
    fresh = TrainingClock()
    fresh.listen([optimizer])
    optimizer.step()
    for name in ("time_per_step", "learning_rate", "stability_rate", "weight_decay"):
        assert getattr(clock, name) == pytest.approx(getattr(fresh, name), nan_ok=True), name
    assert clock.training_time == pytest.approx(0.1 + fresh.training_time)


def test_a_rate_in_a_tensor_is_read_at_every_step() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.SGD([parameter()], lr=rate)
    clock = TrainingClock()
    clock.listen([optimizer])
    optimizer.step()
    rate.fill_(0.3)
    optimizer.step()
    assert clock.training_time == pytest.approx(0.4)
