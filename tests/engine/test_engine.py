"""What the analysis reads while training goes on."""

from __future__ import annotations

import torch

from shockwatch.capture import named_state
from shockwatch.engine import Engine
from shockwatch.replica import private_copy
from shockwatch.snapshot import Snapshot
from tests.symmetry.cases import BY_NAME


def test_groups_are_measured_on_the_snapshot_not_on_the_live_parameters() -> None:
    """Training moves the live tensors while the worker measures; here it has ruined them already."""
    case = BY_NAME["mlp"]
    live = case.model()
    engine = Engine.build(private_copy(live), case.loss, case.data(), horizon=200, seed=0, probe=False)
    state = {name: tensor.detach().clone() for name, tensor in named_state(live).items()}
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.fill_(torch.nan)
    engine.process(Snapshot(1, state, 0.1, 0.1, 0.1, 1.0), probe=False)
    assert engine.quotient.dim == sum(case.dims.values())
