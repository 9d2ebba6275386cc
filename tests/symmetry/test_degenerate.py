"""Blocks whose orbit has no point of least norm: the limit of the orbit, continuous when they come alive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from shockwatch.observables.base import Point
from shockwatch.observables.path import QuotientPath
from shockwatch.snapshot import State
from shockwatch.symmetry import infer_symmetries
from tests.symmetry.cases import targets
from tests.symmetry.test_quotient import loss_of, prepared


@dataclass(frozen=True)
class Degenerate:
    """``set_`` brings a state to ``t`` times itself in one block; ``found`` is what is reported at ``t = 0``.

    ``layers`` share what is left of a product of size ``t``.
    """

    case: str
    set_: Callable[[State, float], None]
    found: dict[str, int]
    layers: int = 2


def times(name: str, *where: int | slice) -> Callable[[State, float], None]:
    def set_(state: State, t: float) -> None:
        state[name][where] *= t

    return set_


def both(*parts: Callable[[State, float], None]) -> Callable[[State, float], None]:
    def set_(state: State, t: float) -> None:
        for part in parts:
            part(state, t)

    return set_


def equal_rows(state: State, t: float) -> None:
    """Two query features of one head alike: the query has rank two."""
    for name in ("q.weight", "q.bias"):
        state[name][0] = state[name][1] + t * state[name][0]


ALL = slice(None)
BLOCKS = {
    "adapter at zero": Degenerate("low rank", times("b.weight"), {"a-b": 1}),
    "unit nobody reads": Degenerate("mlp", times("2.weight", ALL, 4), {"0-2": 1}),
    "unit that reads nothing": Degenerate("mlp", both(times("0.weight", 2), times("0.bias", 2)), {"0-2": 1}),
    # without the second map only the biases of its units are left, and the first layer is read by nobody
    "map at zero": Degenerate("mlp", times("2.weight"), {"0-2": 9}),
    # with the last map at zero nobody reads the second layer, and so nobody the first
    "output at zero": Degenerate("mlp", times("4.weight"), {"2-4": 7}, layers=3),
    "gated unit": Degenerate("swiglu", times("down.weight", ALL, 1), {"up-down": 1}),
    "output projection": Degenerate("attention", times("o.weight"), {"v-o": 2}),
    "query of low rank": Degenerate("attention", equal_rows, {"q-k": 1}),
    "rotary pair": Degenerate(
        "rotary", both(times("q.weight", 0), times("q.weight", 2)), {"k.weight.0-q.weight.0": 1}
    ),
}


def at(name: str, t: float) -> State:
    block = BLOCKS[name]
    state = {key: value.clone() for key, value in prepared(block.case)[3].items()}
    block.set_(state, t)
    return state


@pytest.mark.parametrize("name", BLOCKS)
def test_coming_alive_is_continuous(name: str) -> None:
    """Two sides of a block have the square root of the product's size each: so has the distance from the limit."""
    quotient = prepared(BLOCKS[name].case)[2]
    limit = at(name, 0.0)
    far, near = (quotient.distance(limit, at(name, t)) for t in (1e-6, 1e-10))
    assert near / far == pytest.approx(1e-4 ** (1 / BLOCKS[name].layers), rel=1e-2)
    assert near < 1e-2
    point = quotient.balance(at(name, 1e-10))
    step = quotient.canonicalize(limit, point)
    assert quotient.euclidean(point, step) == pytest.approx(near, rel=1e-3)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_limit_is_a_canonical_form(name: str) -> None:
    """Finite, the same function, idempotent, the same in every gauge; reported, and not reported when alive."""
    block = BLOCKS[name]
    quotient = prepared(block.case)[2]
    limit = at(name, 0.0)
    canonical = quotient.canonicalize(limit)
    assert all(bool(torch.isfinite(t).all()) for t in canonical.values())
    assert loss_of(block.case, canonical) == pytest.approx(loss_of(block.case, limit), rel=1e-12)
    assert quotient.euclidean(quotient.canonicalize(canonical), canonical) < 1e-10
    for seed in range(3):
        moved = quotient.random_transform(limit, torch.Generator().manual_seed(seed))
        assert quotient.euclidean(quotient.canonicalize(moved), canonical) < 1e-8
        assert quotient.distance(moved, limit) < 1e-8
    assert quotient.degenerate(limit) == block.found
    assert quotient.degenerate(prepared(block.case)[3]) == {}


def test_layers_behind_a_dead_layer_die_with_it() -> None:
    """Output at zero: no path from the inputs to the output is left, so the least norm keeps the last bias alone."""
    quotient = prepared("mlp")[2]
    point = quotient.canonicalize(at("output at zero", 0.0))
    assert all(not bool(point[n].any()) for n in quotient.names if n != "4.bias")


def test_an_axis_wider_than_both_sides_is_balanced() -> None:
    """A linear map through twenty features has rank five: half the squared least norm is its nuclear norm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20, bias=False), nn.Linear(20, 5, bias=False)).double()

    def loss_fn(module: nn.Module, batch: Tensor) -> Tensor:
        return module(batch).square().sum()

    state: State = {n: p.detach() for n, p in model.named_parameters()}
    quotient = infer_symmetries(model, loss_fn, targets(0)[0].double())
    nuclear = float(torch.linalg.matrix_norm(state["1.weight"] @ state["0.weight"], "nuc"))
    assert quotient.norm(quotient.balance(state)) ** 2 == pytest.approx(2 * nuclear, rel=1e-12)
    moved = quotient.random_transform(state)
    assert quotient.euclidean(quotient.canonicalize(moved), quotient.canonicalize(state)) < 1e-8
    assert quotient.degenerate(state) == {}


def test_fine_tuning_an_adapter_from_zero_has_no_jump() -> None:
    """``|q|^2 = 2 |B A|_*`` from the first snapshot on, and the first step is as long as the norm it makes."""
    case, model, quotient, start = prepared("low rank")
    state = {n: t.clone() for n, t in start.items()}
    state["b.weight"] *= 0
    trained = {n: state[n].requires_grad_() for n in quotient.names}
    path, previous = QuotientPath(), None
    norms, speeds = [], []
    for step in range(6):
        plain = {n: t.detach().clone() for n, t in state.items()}
        canonical = quotient.canonicalize(plain, None if previous is None else previous.canonical)
        point = Point(step, 0.01 * step, plain, canonical, quotient)
        values = path.compute(point, previous)
        nuclear = torch.linalg.matrix_norm(plain["b.weight"] @ plain["a.weight"], "nuc")
        assert values["quotient/norm"] ** 2 == pytest.approx(2 * float(nuclear), rel=1e-10, abs=1e-15)
        norms.append(values["quotient/norm"])
        speeds.append(values["quotient/speed"])
        previous = point
        inputs, wanted = case.data()
        loss = nn.functional.mse_loss(functional_call(model, state, (inputs,)), wanted)
        for tensor, gradient in zip(
            trained.values(), torch.autograd.grad(loss, list(trained.values())), strict=True
        ):
            tensor.data -= 0.01 * gradient
    assert norms[0] == 0
    assert speeds[1] == pytest.approx(norms[1], rel=1e-10)
    assert speeds[1:] == sorted(speeds[1:], reverse=True)


def test_curvature_at_the_limit() -> None:
    """There the Hessian is ``[[0, G], [G^T, 0]]`` with ``G`` the gradient in ``B A``: so ``lambda_min = -|G|``.

    Next to the limit there are directions along orbits, which are left out of the curvature: it is no lower.
    """
    case, model, quotient, _ = prepared("low rank")
    lowest = []
    for t in (0.0, 1e-10):
        operator = quotient.hessian(model, case.loss, case.data(), at("adapter at zero", t))
        lowest.append(float(np.linalg.eigvalsh(operator.matmat(np.eye(operator.shape[0])))[0]))
    inputs, wanted = case.data()
    weight = torch.zeros(7, 8, dtype=torch.float64, requires_grad=True)
    base = prepared("low rank")[3]
    output = nn.functional.linear(inputs, base["base.weight"], base["base.bias"]) + 2.0 * inputs @ weight.T
    (gradient,) = torch.autograd.grad(nn.functional.mse_loss(output, wanted), weight)
    exact = -float(torch.linalg.matrix_norm(gradient, 2))
    assert lowest[0] == pytest.approx(exact, rel=1e-9)
    assert exact <= lowest[1] < 0.5 * exact
