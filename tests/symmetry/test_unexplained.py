"""Directions that no group explains: counted, and named by the tensors that carry them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shockwatch.symmetry import infer_symmetries
from shockwatch.symmetry.oracle import true_redundancy
from shockwatch.symmetry.quotient import Quotient
from shockwatch.symmetry.unexplained import unexplained
from shockwatch.tracing import trace_step
from tests.symmetry.cases import BY_NAME


def named(model, loss, batch, quotient=None):
    found = infer_symmetries(model, loss, batch) if quotient is None else quotient
    return found, unexplained(found, trace_step(model, loss, batch), model, batch)


@pytest.mark.parametrize("name", ["mlp", "swiglu", "attention"])
def test_nothing_is_left_where_coverage_is_one(name):
    case = BY_NAME[name]
    _, left = named(case.model(), case.loss, case.data())
    assert left.count == 0
    assert left.shares == {}


def test_a_narrow_linear_network_has_two_more():
    """theory.md 1: 6-5-5-4 has 57 redundant directions, of which GL and logits explain 55."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 4)).double()

    def loss(m, b):
        return nn.functional.cross_entropy(m(b[0]), b[1])

    batch = torch.randn(12, 6).double(), torch.arange(12) % 4
    quotient, left = named(model, loss, batch)
    true = true_redundancy(model, loss, batch)
    assert left.count == true - quotient.dim_exact
    assert sum(left.shares.values()) == pytest.approx(1.0)


def test_a_group_that_is_not_looked_for_is_carried_by_its_tensors():
    """Without any group, all 16 + 8 directions of the MLP are unexplained, and every tensor carries some."""
    case = BY_NAME["mlp"]
    model = case.model()
    _, left = named(model, case.loss, case.data(), Quotient((), [n for n, _ in model.named_parameters()]))
    assert left.count == 24
    assert set(left.shares) == {n for n, _ in model.named_parameters()}


def test_large_models_are_refused():
    model = nn.Linear(100, 40).double()
    batch = torch.randn(3, 100).double()

    def loss(m, b):
        return m(b).square().mean()

    with pytest.raises(ValueError, match="at most 3,000"):
        named(model, loss, batch)
