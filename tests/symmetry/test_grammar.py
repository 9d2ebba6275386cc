"""No false group on architectures nobody chose: random networks from :mod:`tests.symmetry.grammar`.

CI draws a fixed set of 200. More, with fresh draws:
``SHOCKWATCH_ARCHITECTURES=1000 pytest tests/symmetry/test_grammar.py --hypothesis-seed=1``; how many of those that the
oracle sees are found whole: ``--hypothesis-show-statistics``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from shockwatch.replica import private_copy
from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.oracle import redundancy_of
from shockwatch.tracing import trace_step
from tests.symmetry.cases import state_of
from tests.symmetry.grammar import Architecture, architecture
from tests.symmetry.spans import generators

ASKED = os.environ.get("SHOCKWATCH_ARCHITECTURES")
# An eps this small leaves less than the tolerance of what is approximate, where two features of a norm nearly meet too.
EPS = 1e-17
# Up to so many parameters the true number of redundant directions is computed too: about 70 of the 200 networks.
SMALL = 160
LEAST_SEEN = 60
# One test each, for the workers to share.
BLOCKS = 4


def problems(drawn: Architecture, quotient: Quotient) -> Iterator[str]:
    """What is false about ``quotient``: every group against the model itself, on another batch."""
    drawn = replace(drawn, model=private_copy(drawn.model))
    state = state_of(drawn.model)
    batch = drawn.batch(1)
    generator = torch.Generator().manual_seed(1)

    def loss(weights: dict[str, Tensor]) -> float:
        # a module without parameters in the state is called as it is
        wrapped = _Loss(drawn)
        return float(functional_call(wrapped, {f"model.{n}": t for n, t in weights.items()}, (batch,)))

    def change(group: object, scale: float) -> float:
        moved = {n: t.clone() for n, t in state.items()}
        with torch.no_grad():
            group.transform_(moved, generator, scale)  # type: ignore[attr-defined]
            return abs(loss(moved) - base) / max(abs(base), 1e-12)

    drawn.model.eval()
    for module in drawn.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    with torch.no_grad():
        base = loss(state)
    for group in quotient.groups:
        if not group.approximate and (moved := change(group, 0.5)) > 1e-9:
            yield f"false {group.kind} {group.name}: {moved:.1e}"
    # The others are exact but for an eps: without it they are exact.
    for module in drawn.model.modules():
        if isinstance(getattr(module, "eps", None), float):
            module.eps = EPS
    with torch.no_grad():
        base = loss(state)
    for group in quotient.groups:
        if group.approximate and (moved := change(group, 0.5)) > 1e-7:
            yield f"false approximate {group.kind} {group.name}: {moved:.1e}, stated {group.residual:.1e}"
    if (rank := generator_rank(quotient, state)) != quotient.dim:
        yield f"{quotient.dim} directions counted, {rank} independent"


class _Loss(nn.Module):
    def __init__(self, drawn: Architecture) -> None:
        super().__init__()
        self.model, self.drawn = drawn.model, drawn

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.drawn.loss(self.model, batch)


def generator_rank(quotient: Quotient, state: dict[str, Tensor]) -> int:
    """How many of the generators are independent: with every group true, no more directions than there are."""
    rows = generators(quotient, state)
    if not rows.numel():
        return 0
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    values = torch.linalg.svdvals(rows)
    return int((values > 1e-9 * values[0]).sum())


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_false_group(block: int) -> None:
    seen = []

    @settings(
        max_examples=int(ASKED or 200) // BLOCKS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(number=st.integers(0, 2**31))
    def examples(number: int) -> None:
        drawn = architecture(Random(number))
        quotient = infer_symmetries(drawn.model, drawn.loss, drawn.batch(0))
        assert list(problems(drawn, quotient)) == [], drawn.model
        if sum(p.numel() for p in drawn.model.parameters()) <= SMALL:
            model, batch = private_copy(drawn.model).double(), drawn.batch(0)
            true = redundancy_of(trace_step(model, drawn.loss, batch), model, batch)
            # Inputs and outputs are narrow: directions that no group explains are many.
            event(f"oracle: {'all' if quotient.dim_exact == true else 'not all'} found")
            assert quotient.dim_exact <= true, drawn.model
            seen.append(true)

    # a set of its own for each block, the same in every run
    (examples if ASKED else seed(block)(examples))()
    assert ASKED or len(seen) >= LEAST_SEEN // BLOCKS
