"""The benchmark of control: its edge against a closed form, its verdicts on runs whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from examples.benchmarks.control.families import sharpness
from examples.benchmarks.control.runs import alone
from examples.benchmarks.control.tables import tables
from examples.benchmarks.labelled.families import Case, squared


def line(rate: float) -> Case:
    """Linear regression: its Hessian is that of ``x`` alone, and its edge is exact."""
    torch.manual_seed(0)
    x, model = torch.randn(40, 3).double(), nn.Linear(3, 1, bias=False).double()
    data = (x, x.sum(1, keepdim=True) + 0.3 * torch.randn(40, 1).double())
    return Case(model, squared, torch.optim.SGD(model.parameters(), rate), 200, data, lambda _: data)


def test_the_edge_is_where_gradient_descent_turns() -> None:
    case = line(0.1)
    curvature = sharpness(case)
    gram = case.data[0].T @ case.data[0] / 40
    assert curvature == pytest.approx(float(torch.linalg.eigvalsh(gram)[-1]))
    below, above = (alone(line(share * 2.0 / curvature)) for share in (0.95, 1.1))
    assert below.event is None
    assert math.isfinite(below.final)
    assert above.event is not None
    assert above.final == math.inf


def result(**changes: Any) -> dict[str, Any]:
    plain = {
        "family": "f", "seed": 0, "steps": 100, "diverges_at": 40, "alone": math.inf, "tuned": 1.0, "tuned_rate": 0.1,
        "controlled": 1.04, "controlled_diverges_at": None, "lowest_factor": 0.5, "steps_lowered": 9, "stopped_at": 30,
        "steps_made": 30, "best_after_stop": 2.0, "best_before_stop": 1.5,
    }  # fmt: skip
    return plain | changes


def test_verdicts() -> None:
    table = tables(
        [
            result(),
            result(seed=1, controlled=1.06, best_after_stop=1.0),
            result(family="calm", diverges_at=None, alone=1.0, controlled=1.03, stopped_at=None),
        ]
    )
    assert "within 5 % of a rate tuned by hand | 80 % | 1 of 2 (50 %)" in table
    assert "0 of 1 (0 %), median cost 3.00 %, worst 3.0 %" in table
    assert "steps saved of what the run was to make, median | - | 70 |" in table
    assert "no lower loss after that step | - | 1 of 2 (50 %)" in table
    assert table.count("\n- ") == 2
