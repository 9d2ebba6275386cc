"""The look-ahead of Adam against Adam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shockwatch.capture import named_state
from shockwatch.curvature import AdaptedLoss
from shockwatch.moments import adam_moments
from shockwatch.shock import adam_path as module
from shockwatch.shock.adam_path import GRADIENTS, adam_path, noise_floor
from shockwatch.snapshot import Moments
from shockwatch.tracing import StepLoss, trace_step

DOUBLE = torch.float64
_RANDOM = torch.Generator().manual_seed(0)
DATA = (torch.eye(5, dtype=DOUBLE), torch.randn(5, 5, generator=_RANDOM, dtype=DOUBLE))


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return 0.5 * (model(batch[0]) - batch[1]).square().sum()


def net(scale: float = 0.05) -> nn.Module:
    random = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random, dtype=DOUBLE))
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> tuple[list[float], list[float]]:
    """Losses and gradient norms before each step."""
    losses, norms = [], []
    for _ in range(count):
        optimizer.zero_grad()
        loss = loss_fn(model, DATA)
        loss.backward()
        losses.append(loss.item())
        norms.append(
            sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) ** 0.5
        )
        optimizer.step()
    return losses, norms


def here(model: nn.Module, optimizer: torch.optim.Optimizer) -> AdaptedLoss:
    moments = adam_moments(named_state(model), [optimizer])
    assert moments is not None
    state = {n: t.detach().clone() for n, t in named_state(model).items()}
    loss = StepLoss(trace_step(model, loss_fn, DATA), DATA)
    held = {n: m.holding(iter([t.clone() for t in m.tensors()])) for n, m in moments.items()}
    return AdaptedLoss(loss, state, {}, held)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"amsgrad": True, "betas": (0.7, 0.9), "eps": 1e-3}),
        (torch.optim.Adam, {"weight_decay": 0.3}),
        (torch.optim.AdamW, {"weight_decay": 3.0}),
    ],
    ids=str,
)
def test_in_leaps_of_one_step_it_is_torchs_adam(kind, options, monkeypatch):
    """Two groups, and a parameter that joins late; full batches, so there is no noise to stay."""
    monkeypatch.setattr(module, "_LONGEST", 1)
    monkeypatch.setattr(
        module, "noise_floor", lambda held, gradient, slope: 2 * (torch.zeros_like(gradient),)
    )
    model = net()
    optimizer = kind(
        [{"params": [model[0].weight], "lr": 2e-2}, {"params": list(model[1].parameters())}],
        lr=1e-2,
        **options,
    )
    model[1].bias.requires_grad_(False)
    train(model, optimizer, 5)
    model[1].bias.requires_grad_(True)
    train(model, optimizer, 4)
    assert {float(s["step"]) for s in optimizer.state.values()} == {9.0, 4.0}
    path = adam_path(here(model, optimizer), gradients=20)
    losses, norms = train(model, optimizer, 21)
    assert path.steps.tolist() == list(range(21))
    assert path.gradients == 20
    assert np.allclose(path.losses, losses, rtol=1e-9)
    assert np.allclose(path.norms, norms, rtol=1e-9)


def test_moments_after_a_leap_are_those_of_a_gradient_on_a_line():
    """Closed sums against a loop, to rounding; the parameters, with ``v`` of two points only, to a per cent."""
    random = torch.Generator().manual_seed(2)
    place, mean, gradient, slope = torch.randn(4, 50, generator=random, dtype=DOUBLE).unbind()
    square = mean.square() + 0.5
    slope = 0.02 * slope
    floor = torch.rand(50, generator=random, dtype=DOUBLE)
    rule = Moments(mean, square, None, 30.0, 1e-2, 0.9, 0.99, 1e-8, 0.0, 0.0)
    group = module._Group((0,), (place.shape,), rule, 30, place, mean, square, None, floor)
    after = group.after(17, gradient, slope)
    m, v, x = mean.clone(), square.clone(), place.clone()
    for j in range(17):
        g = gradient + j * slope
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * (g.square() + floor)
        t = 31 + j
        x -= 1e-2 * m / (1 - 0.9**t) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
    assert after.steps == 47
    assert torch.allclose(after.mean, m, rtol=1e-11)
    assert torch.allclose(after.square, v, rtol=1e-11)
    assert float((after.place - x).norm() / (x - place).norm()) < 0.01
    assert torch.equal(group.place, place), "the one before is not touched"


@pytest.mark.parametrize("start", [3, 40, 150])
def test_few_gradients_show_a_hundred_steps(start):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train(model, optimizer, start)
    path = adam_path(here(model, optimizer))
    assert path.gradients == GRADIENTS
    reach = int(path.steps[-1])
    assert reach >= 100
    losses, norms = train(model, optimizer, reach + 1)
    seen = path.steps.astype(int)
    assert np.abs(np.log(path.norms / np.array(norms)[seen])).max() < 0.1
    assert np.allclose(path.losses, np.array(losses)[seen], rtol=0.1)


def test_it_ends_where_enough_was_seen_and_changes_nothing():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train(model, optimizer, 3)
    point = here(model, optimizer)
    kept = {n: t.clone() for n, t in point.state.items()}
    squares = [m.square.clone() for m in point.moments if m is not None]
    path = adam_path(point, enough=lambda path: len(path.steps) == 4)
    assert len(path.steps) == 4
    assert all(torch.equal(kept[n], t) for n, t in point.state.items())
    assert all(
        torch.equal(a, m.square)
        for a, m in zip(squares, (m for m in point.moments if m is not None), strict=True)
    )


def test_a_path_that_leaves_the_finite_numbers_ends():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train(model, optimizer, 3)
    for group in optimizer.param_groups:
        group["lr"] = 1e200
    path = adam_path(here(model, optimizer))
    assert np.isfinite(path.losses).all()
    assert path.gradients < GRADIENTS


def moments_of(gradients: Tensor) -> Moments:
    """What Adam holds after these gradients, one a row."""
    mean, square = (
        torch.zeros(gradients.shape[1:], dtype=DOUBLE),
        torch.zeros(gradients.shape[1:], dtype=DOUBLE),
    )
    for g in gradients:
        mean = 0.9 * mean + 0.1 * g
        square = 0.999 * square + 0.001 * g.square()
    return Moments(mean, square, None, float(len(gradients)), 1e-3, 0.9, 0.999, 1e-8, 0.0, 0.0)


def test_noise_stays_and_the_past_does_not():
    random = torch.Generator().manual_seed(3)
    trend = torch.randn(400, generator=random, dtype=DOUBLE)
    noisy = trend + 3.0 * torch.randn(500, 400, generator=random, dtype=DOUBLE)
    floor, _ = noise_floor(moments_of(noisy), trend, 0.0 * trend)
    assert float(floor.mean()) == pytest.approx(9.0, rel=0.15)
    falling = trend * torch.exp(-torch.arange(500.0, dtype=DOUBLE) / 100)[:, None]
    held = moments_of(falling)
    past = held.square / (1 - 0.999**500) - (held.mean / (1 - 0.9**500)).square()
    assert float(noise_floor(held, falling[-1], falling[-1] - falling[-2])[0].sum() / past.sum()) < 0.05
    growing = trend * torch.exp(torch.arange(500.0, dtype=DOUBLE) / 50)[:, None]
    held = moments_of(growing)
    assert (
        float(noise_floor(held, growing[-1], growing[-1] - growing[-2])[0].sum() / held.square.sum()) < 0.05
    )


def test_a_batch_that_stands_for_all_is_told_from_one_that_does_not():
    random = torch.Generator().manual_seed(4)
    inputs = torch.randn(400, 5, generator=random, dtype=DOUBLE)
    targets = torch.randn(400, 5, generator=random, dtype=DOUBLE)  # nothing to learn but its mean
    model = net(0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(100):
        rows = torch.randint(400, (8,), generator=random)
        optimizer.zero_grad()
        loss_fn(model, (inputs[rows], targets[rows])).backward()
        optimizer.step()
    moments = adam_moments(named_state(model), [optimizer])
    assert moments is not None
    state = {n: t.detach().clone() for n, t in named_state(model).items()}

    def mean_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss_fn(model, batch) * 8.0 / len(batch[0])

    foreign = {}
    for rows in (8, 400):
        batch = (inputs[:rows], targets[:rows])
        loss = StepLoss(trace_step(model, mean_loss, batch), batch)
        foreign[rows] = adam_path(AdaptedLoss(loss, state, {}, moments), gradients=2).foreign
    assert foreign[8] > 0.3
    assert foreign[400] < 0.1


def test_a_fast_direction_that_turns_round_is_no_noise():
    """A gradient that swings with a period of a few steps: a straight line back would miss the mean by far."""
    trend = torch.randn(400, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    swing = torch.cos(torch.arange(200.0, dtype=DOUBLE) * 2.0)[:, None] * trend.flip(0)
    rows = trend + 0.3 * swing
    _, away = noise_floor(moments_of(rows), rows[-1], rows[-1] - rows[-2])
    assert float(away.square().sum() / rows[-1].square().sum()) < 0.05
