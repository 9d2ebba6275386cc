"""Joint verification: as strict as one by one, on any model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from shockwatch.symmetry import infer_symmetries, verify
from shockwatch.symmetry.generic import GenericPoint
from shockwatch.symmetry.groups import GeneralLinear, Permutation, ScalingGroup, SymmetryGroup
from shockwatch.symmetry.verify import Screened, Verifier
from shockwatch.tracing import FewerSamples, StepLoss, chooses, fewer, trace_step, without_epsilon
from tests.symmetry.cases import BY_NAME, CASES, Case, state_of


def prepared(name: str) -> tuple[list[SymmetryGroup], StepLoss, dict[str, Tensor]]:
    case = BY_NAME[name]
    model = case.model()
    groups = list(infer_symmetries(model, case.loss, case.data()).groups)
    loss = StepLoss(trace_step(model, case.loss, case.data()).in_dtype(torch.float64), case.data())
    return groups, loss, state_of(model)


@pytest.fixture(params=[True, False], ids=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(verify, "_SMALL", 0)
    return bool(request.param)


@pytest.mark.parametrize("where", [0, -1])
def test_a_false_group_does_not_hide_among_true_ones(size: bool, where: int) -> None:
    groups, loss, state = prepared("mlp")
    true = next(g for g in groups if isinstance(g, ScalingGroup))
    # the outgoing weights scale as the incoming ones do
    false = dataclasses.replace(true, charges=tuple(abs(q) for q in true.charges))
    groups.insert(where % (len(groups) + 1), false)
    Verifier(loss, state, {}, 0).measure(groups)
    assert false.residual > 1e-5
    assert all(g.residual < 1e-12 for g in groups if g is not false)


def test_two_false_groups_are_both_found(size: bool) -> None:
    groups, loss, state = prepared("attention")
    linear = [g for g in groups if isinstance(g, GeneralLinear)]
    # one side of the product alone
    false = [dataclasses.replace(g, pieces=g.pieces[:1], charges=g.charges[:1]) for g in linear]
    assert len(false) == 2
    Verifier(loss, state, {}, 0).measure([false[0], *groups, false[1]])
    assert all(g.residual > 1e-5 for g in false)
    assert all(g.residual < 1e-12 for g in groups)


def test_a_group_that_cannot_be_applied_is_refused_alone(size: bool) -> None:
    groups, loss, state = prepared("mlp")
    broken = dataclasses.replace(groups[0], units=(groups[-1].pieces[0].atoms[-1],) * 2)
    Verifier(loss, state, {}, 0).measure([broken, *groups])
    assert broken.residual == math.inf
    assert all(g.residual < 1e-12 for g in groups)


def test_the_order_of_two_units_is_tried_and_not_only_the_identity() -> None:
    torch.manual_seed(0)  # units that no datum reaches may be exchanged one-sidedly
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3)).double()
    batch = (torch.randn(4, 3, dtype=torch.float64), torch.randint(3, (4,)))
    case = BY_NAME["mlp"]
    quotient = infer_symmetries(model, case.loss, batch)
    true = next(g for g in quotient.groups if isinstance(g, Permutation))
    false = dataclasses.replace(true, pieces=true.pieces[:1])
    loss = StepLoss(trace_step(model, case.loss, batch).in_dtype(torch.float64), batch)
    for seed in range(20):
        verifier = Verifier(loss, state_of(model), {}, seed)
        verifier.measure([false])
        verifier.measure([true])
        assert false.residual > 1e-6
        assert true.residual < 1e-12


class _Broken(StepLoss):
    def streamed_value(self, read: Callable[[str], Tensor]) -> float:
        return math.nan


@pytest.mark.parametrize("finite", [True, False])
def test_exact_groups_are_tried_twice_beside_approximate_ones(size: bool, finite: bool) -> None:
    """Their second trial is that of approximate groups without an eps, where there is one."""
    case = BY_NAME["cnn"]
    groups, loss, state = prepared("cnn")
    stated = {g: g.residual for g in groups}
    wide = trace_step(case.model(), case.loss, case.data()).in_dtype(torch.float64)
    kind = StepLoss if finite else _Broken
    fixed = {n: t for n, t in case.model().named_buffers() if n not in state}
    true = next(g for g in groups if isinstance(g, Permutation))
    false = dataclasses.replace(true, pieces=true.pieces[:1])
    Verifier(loss, state, fixed, 0, lambda: kind(without_epsilon(wide), case.data())).measure(
        [*groups, false]
    )
    assert false.residual > 1e-6
    approximate = [g for g in groups if g.approximate]
    assert approximate
    assert all(g.residual < 1e-12 for g in groups if not g.approximate)
    assert all((g.residual < 10 * stated[g]) is finite for g in approximate)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_large_models_and_few_samples_have_the_groups_of_small_ones_and_all(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = case.model(torch.float32)
    data = case.data(dtype=torch.float32)
    small = infer_symmetries(model, case.loss, data)
    monkeypatch.setattr(verify, "_SMALL", 0)
    large = infer_symmetries(model, case.loss, data)
    assert [(g.kind, g.name, g.dim) for g in large.groups] == [(g.kind, g.name, g.dim) for g in small.groups]
    assert large.dim_exact == small.dim_exact
    monkeypatch.setattr(fewer, "_ENTRIES", 1)
    few = infer_symmetries(model, case.loss, data)
    assert [(g.kind, g.name, g.dim) for g in few.groups] == [(g.kind, g.name, g.dim) for g in small.groups]
    assert few.dim_exact == small.dim_exact


class OneWord:
    """Changes the embedding of one word: no symmetry, where the word is read."""

    kind, name, approximate, residual = "one word", "0", False, math.inf
    parameters = ("0.weight",)

    def __init__(self, word: int) -> None:
        self.word = word

    def transform_(self, state: dict[str, Tensor], generator: torch.Generator, scale: float) -> None:
        state["0.weight"][self.word] += scale


def test_a_word_that_few_samples_leave_unread_is_read_in_the_end(size: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 5), nn.Linear(5, 3)).double()
    # every third sample is chosen: word 10 is in none of them, word 11 in no sample at all
    words = torch.arange(12) % 10
    words[7] = 10
    batch = words[:, None], torch.arange(12)[:, None] % 3
    trace = trace_step(model, lambda m, b: nn.functional.cross_entropy(m(b[0]).mT, b[1]), batch)

    def few() -> Verifier:
        return Verifier(FewerSamples(trace, batch, 4), state_of(model), {}, 0)

    def whole() -> Verifier:
        return Verifier(StepLoss(trace, batch), state_of(model), {}, 0)

    assert chooses(trace)
    unread, read = OneWord(11), OneWord(10)
    Screened(few, whole).measure([unread, read])
    assert (unread.residual, read.residual) == (0.0, 0.0)  # what must not happen
    Screened(few, whole, choosy=True).measure([unread, read])
    assert unread.residual == 0.0
    assert read.residual > 1e-5


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_streamed_loss_is_the_loss(case: Case) -> None:
    model = case.model()
    state = state_of(model)
    loss = StepLoss(trace_step(model, case.loss, case.data()), case.data())
    before = {name: tensor.clone() for name, tensor in state.items()}
    assert loss.streamed_value(state.__getitem__) == loss.value(state, {})
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_a_generic_point_is_repeatable_and_degenerate_tensors_are_not_left_so() -> None:
    state = {
        "zero": torch.zeros(300, 300),
        "one": torch.ones(300),
        "bad": torch.tensor([1.0, math.inf, math.nan]),
        "running_var": torch.ones(5),
        "count": torch.tensor(3),
        "half": torch.randn(7, dtype=torch.bfloat16),
    }
    point = GenericPoint(state, {"mask": torch.ones(2)}, seed=1)
    for name in state:
        assert torch.equal(
            point.wide(name), GenericPoint(state, {}, seed=1).narrow(name).to(point.wide(name).dtype)
        )
    assert torch.linalg.matrix_rank(point.wide("zero")) == 300
    assert point.wide("one").unique().numel() == 300
    assert bool(torch.isfinite(point.wide("bad")).all())
    assert bool((point.wide("running_var") > 0).all())
    assert int(point.wide("count")) == 3
    assert point.narrow("half").dtype == torch.bfloat16
    assert torch.equal(point.wide("mask"), torch.ones(2, dtype=torch.float64))
    assert torch.equal(state["zero"], torch.zeros(300, 300))
