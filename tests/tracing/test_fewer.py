"""A step on a few of its samples is the step traced on those."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from shockwatch.symmetry import infer_symmetries
from shockwatch.tracing import FewerSamples, StepLoss, enough_samples, fewer, trace_step
from tests.symmetry.cases import CASES, Case, cross_entropy

# Their targets are those of all tokens in one row.
_MIXED = {
    "attention",
    "packed attention",
    "written attention",
    "multi-head",
    "pre-norm encoder",
    "post-norm encoder",
    "rotary",
    "interleaved rotary",
    "shared keys",
    "tied",
    "normalised queries",
    "listed heads",
    "summed heads",
    "llama",
}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}


def contrast(model: nn.Module, batch: Tensor) -> Tensor:
    """Every sample against all: their number is written into the step."""
    features = model(batch)
    return nn.functional.cross_entropy(features @ features.T, torch.arange(16))


def turned(model: nn.Module, batch: Tensor) -> Tensor:
    """Every sample against the next: their numbers are a constant of the step."""
    return (model(batch) * model(batch[_NEXT])).sum().exp()


_NEXT = torch.arange(16).roll(1)


def a_few(batch: Any, count: int, total: int) -> Any:
    chosen = torch.arange(count) * total // count
    return pytree.tree_map(lambda x: x[chosen] if isinstance(x, Tensor) else x, batch)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_values_are_those_of_the_step_traced_on_fewer(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fewer, "_ENTRIES", 1)
    model, batch = case.model(), case.data()
    trace = trace_step(model, case.loss, batch)
    count = enough_samples(trace, batch)
    assert (count is None) == (case.name in _MIXED)
    if count is not None:
        few = a_few(batch, count, len(batch[0]))
        expected = StepLoss(trace_step(model, case.loss, few), few).value(tensors_of(model), {})
        value = FewerSamples(trace, batch, count).streamed_value(tensors_of(model).__getitem__)
        assert value == pytest.approx(expected, rel=1e-12)


def test_time_may_come_first_and_samples_be_packed_with_other_axes() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.mix, self.out = nn.Linear(6, 6), nn.Linear(5, 5), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            heads = self.inner(x).transpose(0, 1).reshape(5, 8 * 2, 3)  # time, samples and heads, features
            mixed = self.mix(heads.permute(1, 2, 0)).tanh()
            together = mixed.permute(2, 0, 1).reshape(5 * 8, 6)
            state = torch.zeros(8, 6, dtype=x.dtype) + self.inner(together).view(5, 8, 6).sum(0)
            return self.out(state)

    torch.manual_seed(0)
    model, batch = Folded().double(), (torch.randn(8, 5, 6, dtype=torch.float64), torch.randint(3, (8,)))
    trace = trace_step(model, cross_entropy, batch)
    state = tensors_of(model)
    value = FewerSamples(trace, batch, 4).streamed_value(state.__getitem__)
    few = a_few(batch, 4, 8)
    # written for eight samples: by hand on four
    x = few[0] @ state["inner.weight"].T + state["inner.bias"]
    heads = x.transpose(0, 1).reshape(5, 8, 3).permute(1, 2, 0)
    mixed = (heads @ state["mix.weight"].T + state["mix.bias"]).tanh().permute(2, 0, 1).reshape(20, 6)
    total = (mixed @ state["inner.weight"].T + state["inner.bias"]).view(5, 4, 6).sum(0)
    logits = total @ state["out.weight"].T + state["out.bias"]
    assert value == pytest.approx(float(nn.functional.cross_entropy(logits, few[1])), rel=1e-12)


def test_numbers_of_samples_are_those_of_fewer() -> None:
    model, batch = nn.Linear(4, 3), torch.randn(16, 4)
    value = FewerSamples(trace_step(model, contrast, batch), batch, 4).streamed_value(
        tensors_of(model).__getitem__
    )
    features = model(batch[::4])
    expected = nn.functional.cross_entropy(features @ features.T, torch.arange(4))
    assert value == pytest.approx(float(expected), rel=1e-6)


def test_what_does_not_fit_is_told() -> None:

    model, batch = nn.Linear(4, 3), torch.randn(16, 4)
    loss = FewerSamples(trace_step(model, turned, batch), batch, 4)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        loss.streamed_value(tensors_of(model).__getitem__)


def test_few_samples_serve_only_where_they_are_fewer_and_activations_many() -> None:
    model = nn.Linear(4, 3)
    batch = (torch.randn(16, 4), torch.randint(3, (16,)))
    assert enough_samples(trace_step(model, cross_entropy, batch), batch) is None
    wide = nn.Sequential(nn.Linear(4, 100_000), nn.ReLU(), nn.Linear(100_000, 3))
    batch = (torch.randn(32, 4), torch.randint(3, (32,)))
    # of 200,000 entries each, and 700,000 of the weights' transposes
    assert enough_samples(trace_step(wide, cross_entropy, batch), batch) == 10


def test_groups_are_those_of_all_samples_where_the_step_does_not_run_on_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    batch = torch.randn(16, 4, dtype=torch.float64)
    expected = infer_symmetries(model, turned, batch)
    monkeypatch.setattr(fewer, "_ENTRIES", 1)
    found = infer_symmetries(model, turned, batch)
    assert found.dim == expected.dim > 0
    assert [group.name for group in found.groups] == [group.name for group in expected.groups]
