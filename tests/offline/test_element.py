"""The element that relates two states: known ones, applied by hand, are read back."""

from __future__ import annotations

import math

import pytest
import torch

from shockwatch.offline.element import elements, factors, matrices
from shockwatch.symmetry import infer_symmetries
from shockwatch.symmetry.groups import ComplexScaling, GeneralLinear, PositiveScaling, Rotation, Translation
from tests.symmetry.cases import BY_NAME


def setting(name, kind):
    """A quotient, a state, a copy to move, and the first group of a kind."""
    case = BY_NAME[name]
    model = case.model()
    quotient = infer_symmetries(model, case.loss, case.data())
    state = {n: p.detach().clone() for n, p in model.named_parameters()}
    group = next(g for g in quotient.groups if isinstance(g, kind))
    return quotient, state, {n: t.clone() for n, t in state.items()}, group


def test_factors_of_units():
    quotient, state, other, group = setting("mlp", PositiveScaling)
    logs = torch.zeros([atom.size for atom in group.units], dtype=torch.float64)
    logs[0], logs[1] = math.log(3.0), math.log(0.25)
    group.scale_(other, logs)
    assert elements(quotient, state, other) == {group.name: "factors 0.25 to 3"}


def test_stretches_of_a_head():
    quotient, state, other, group = setting("attention", GeneralLinear)
    size = group.blocks, group._row.size
    matrix = torch.eye(size[1], dtype=torch.float64).repeat(size[0], 1, 1)
    matrix[0, 0, 0], matrix[0, 1, 1] = 0.5, 4.0
    group._act_(other, matrix, torch.linalg.inv(matrix).mT)
    assert elements(quotient, state, other)[group.name] == "stretches 0.5 to 4"


def test_the_turn_of_a_stream():
    name = next(n for n, c in BY_NAME.items() if c.dims.get("rotation"))
    quotient, state, _, group = setting(name, Rotation)
    # in a plane of the features, or of those that sum to zero
    basis = torch.linalg.qr(torch.cat([torch.ones(group.size, 1), torch.randn(group.size, 2)], 1).double()).Q[
        :, 1:
    ]
    c, s = math.cos(0.7), math.sin(0.7)
    plane = torch.tensor([[c, -s], [s, c]], dtype=torch.float64) - torch.eye(2, dtype=torch.float64)
    quotient_state = quotient.balance(state)
    one = {n: t.clone() for n, t in quotient_state.items()}
    two = {n: t.clone() for n, t in quotient_state.items()}
    group.turn_(two, torch.eye(group.size, dtype=torch.float64) + basis @ plane @ basis.T)
    assert elements(quotient, one, two)[group.name] == "turns up to 40°"


def test_the_factor_of_a_rotary_pair():
    name = next(n for n, c in BY_NAME.items() if c.dims.get("complex scaling"))
    quotient, state, other, group = setting(name, ComplexScaling)
    shape = [atom.size for atom in group.units]
    group.scale_(other, torch.full(shape, math.log(2.0), dtype=torch.float64))
    group._turn_(other, torch.full(shape, 1.0, dtype=torch.float64))
    said = elements(quotient, state, other)[group.name]
    assert said == "factor 2, turns up to 57°"


def test_a_shift():
    quotient, state, other, group = setting("mlp", Translation)
    group.transform_(other, torch.Generator().manual_seed(0), 1.0)
    length = math.sqrt(sum(float((other[n] - state[n]).square().sum()) for n in state))
    assert elements(quotient, state, other) == {group.name: f"shift of length {length:.2g}"}


@pytest.mark.parametrize("name", ["mlp", "attention", "rotary"])
def test_nothing_relates_a_state_to_itself(name):
    if name not in BY_NAME:
        name = next(n for n, c in BY_NAME.items() if c.dims.get("complex scaling"))
    case = BY_NAME[name]
    model = case.model()
    state = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert elements(infer_symmetries(model, case.loss, case.data()), state, state) == {}


def test_words():
    assert factors(torch.tensor([1.0, -1.0, 1.0]).double()) == "1 of 3 signs"
    assert factors(torch.ones(3).double()) == ""
    assert factors(torch.tensor([2.5]).double()) == "factor 2.5"
    assert matrices(torch.eye(3).double()) == ""
    assert matrices(torch.diag(torch.tensor([1.0, 1.0, -1.0])).double()) == "turns up to 180°"
