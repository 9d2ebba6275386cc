"""A run followed from one snapshot to the next with a gauge: the same points as without, and anew after a jump."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shockwatch.symmetry.gauge import Gauge
from tests.symmetry.cases import BY_NAME
from tests.symmetry.test_quotient import prepared

NAMES = [
    "mlp",
    "attention",
    "multi-head",
    "swiglu",
    "cnn",
    "llama",
    "stack",
    "post-norm encoder",
    "low rank",
    "tied",
]


def moved(state: dict[str, Tensor], size: float, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        n: t + size * torch.randn(t.shape, generator=generator, dtype=t.dtype) if t.is_floating_point() else t
        for n, t in state.items()
        if not n.endswith("running_var")
    } | {n: t for n, t in state.items() if n.endswith("running_var")}


@pytest.mark.parametrize("name", [n for n in NAMES if n in BY_NAME])
def test_a_followed_run_meets_the_same_points(name: str) -> None:
    _, _, quotient, start = prepared(name)
    gauge, plain = Gauge(), quotient.balance(start)
    raw, followed = start, plain
    for step in range(4):
        raw = moved(raw, 1e-3, step)
        plain = quotient.canonicalize(raw, plain)
        followed = quotient.canonicalize(raw, followed, gauge)
        assert quotient.euclidean(plain, followed) < 1e-9 * quotient.norm(plain)
    assert gauge.settled


@pytest.mark.parametrize("name", ["mlp", "attention", "swiglu", "llama"])
def test_a_jump_to_another_gauge_starts_anew(name: str) -> None:
    _, _, quotient, start = prepared(name)
    gauge, point = Gauge(), quotient.balance(start)
    for step in range(3):
        point = quotient.canonicalize(moved(start, 1e-4, step), point, gauge)
    raw = moved(start, 1e-4, 3)
    other = quotient.random_transform(raw, torch.Generator().manual_seed(0))
    there = quotient.balance(other)
    assert quotient.norm(quotient.canonicalize(other, point, gauge)) == pytest.approx(
        quotient.norm(there), rel=1e-9
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_first_state_of_a_run_is_canonical_and_tells_its_order(name: str) -> None:
    """The next state, in that order, starts from its gauge."""
    _, _, quotient, start = prepared(name)
    gauge = Gauge()
    first, order = quotient.begin(start, gauge)
    assert gauge.settled
    assert quotient.euclidean(first, quotient.canonicalize(start)) < 1e-9 * quotient.norm(first)
    raw = order.apply(moved(start, 1e-6, 0))
    followed = quotient.canonicalize(raw, first, gauge)
    assert quotient.euclidean(followed, first) < 1e-4 * quotient.norm(first)
    anew = quotient.euclidean(quotient.canonicalize(raw, first), first)
    assert quotient.euclidean(followed, first) <= anew * (1 + 1e-9)


@pytest.mark.parametrize("name", ["mlp", "cnn", "multi-head", "swiglu"])
def test_units_out_of_order_are_noticed(name: str) -> None:
    _, _, quotient, start = prepared(name)
    gauge = Gauge()
    first, order = quotient.begin(start, gauge)
    trained = quotient.canonicalize(order.apply(moved(start, 0.02, 0)), first, gauge)
    assert quotient.in_order(trained, first)
    other = quotient.random_transform(start, torch.Generator().manual_seed(1))
    assert not quotient.in_order(quotient.canonicalize(other, first), first)
