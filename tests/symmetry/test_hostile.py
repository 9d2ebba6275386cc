"""Steps that are hard to trace give the right groups or a report that names what stood in the way."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
from torch import nn

from shockwatch.errors import ShockwatchWarning
from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.tracing import StepLoss, TraceError, trace_step
from tests.symmetry.cases import state_of
from tests.tracing.hostile import HOSTILE, RECURRENT, Hostile, Mlp, loss

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def inferred(case: Hostile) -> tuple[nn.Module, Quotient, list[str]]:
    model = case.model()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quotient = infer_symmetries(model, loss, case.batch(0))
    said = [str(w.message) for w in caught if issubclass(w.category, ShockwatchWarning)]
    return model, quotient, said


@pytest.mark.parametrize("case", HOSTILE, ids=lambda c: c.name)
def test_groups_and_report(case: Hostile) -> None:
    model, quotient, said = inferred(case)
    found: Counter[str] = Counter()
    for group in quotient.groups:
        found[group.kind] += group.dim
    assert {kind: dim for kind, dim in found.items() if dim} == case.dims
    assert sorted(quotient.blocked) == sorted(case.blocked)
    assert {g.kind for g in quotient.rejected} <= {*case.refused, "sign flip"}
    assert len(said) == case.along_path
    assert quotient.notes == tuple(text.removeprefix("shockwatch: ") for text in said)
    assert all(("no curvature" in text) is not case.curvature for text in said)
    assert set(quotient.names) == {n for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("case", [*HOSTILE, *RECURRENT], ids=lambda c: c.name)
def test_no_group_is_wrong_on_the_module_itself(case: Hostile) -> None:
    """Applied to the module, not to a graph of it, on batches that inference has not seen."""
    model, quotient, _ = inferred(case)
    assert quotient.groups
    moved = quotient.random_transform(state_of(model), torch.Generator().manual_seed(1), 0.5)
    twin = case.model()
    twin.load_state_dict({**model.state_dict(), **moved})
    mixed = case.name == "autocast"
    for seed in range(4):
        for sign in (1, -1):
            x, y = case.batch(seed)
            before, after = (
                loss(m, (sign * x if x.is_floating_point() else x, y)).item() for m in (model, twin)
            )
            assert after == pytest.approx(before, rel=2e-2 if mixed else 1e-9)


@pytest.mark.parametrize("case", HOSTILE, ids=lambda c: c.name)
def test_curvature_only_of_graphs_that_are_the_step(case: Hostile) -> None:
    model, batch = case.model(), case.batch(0)
    trace = trace_step(model, loss, batch)
    assert (trace.replay is not None) == case.along_path
    assert (trace.replay is None or trace.replay.follows_parameters) == case.curvature
    if not case.curvature or not case.gradient:
        return
    state = state_of(model)
    value, gradient = StepLoss(trace, batch).gradient(state, state)
    step = loss(model, batch)
    named = dict(model.named_parameters())
    expected = torch.autograd.grad(step, [named[n] for n in trace.trainable])
    assert value == pytest.approx(step.item(), rel=1e-9)
    assert all(torch.allclose(g, e, rtol=1e-6, atol=1e-9) for g, e in zip(gradient, expected, strict=True))


@pytest.mark.parametrize("case", HOSTILE, ids=lambda c: c.name)
def test_nothing_is_touched(case: Hostile) -> None:
    model = case.model().train()
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    batch = case.batch(0)
    generator = torch.get_rng_state()
    inferred(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        infer_symmetries(model, loss, batch)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(batch[0], case.batch(0)[0])
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(model).items())
    assert all(p.grad is None for p in model.parameters())


def test_other_paths_are_counted() -> None:
    case = next(case for case in HOSTILE if case.name == "branch on input")
    _, quotient, _ = inferred(case)
    assert "of them take another path" in quotient.notes[0]


def test_a_step_that_does_not_run_is_one_clear_error() -> None:
    class Broken(Mlp):
        def middle(self, h: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("this kernel is not on this machine")

    with pytest.raises(
        TraceError, match="cannot be traced: RuntimeError: this kernel is not on this machine"
    ):
        infer_symmetries(Broken(), loss, HOSTILE[0].batch(0))
