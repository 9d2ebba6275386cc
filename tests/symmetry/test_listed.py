"""Experts in a list of modules: they change places together with the rows of their router."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.groups import ListPermutation
from tests.symmetry.cases import cross_entropy, state_of, wide

COUNT = 4


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = (nn.Linear(a, b, bias=False) for a, b in ((7, 3), (3, 7), (7, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Mixture(nn.Module):
    """Mixtral's block: a gate, the best two experts, their weights of sum one; dense, or a loop over chosen tokens."""

    def __init__(self, loop: bool = False, sequential: bool = False) -> None:
        super().__init__()
        self.loop, self.sequential = loop, sequential
        self.inp = nn.Linear(6, 7)
        self.gate = nn.Linear(7, COUNT, bias=False)
        self.experts = nn.ModuleList(Gated() for _ in range(COUNT))
        self.head = nn.Linear(7, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inp(x))
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        if self.sequential:
            for expert in self.experts:
                x = x + expert(x)
            return self.head(torch.tanh(x)) * weights.sum()
        mixed = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            if self.loop:
                tokens, slot = torch.where(chosen == k)
                mixed = mixed.index_add(0, tokens, expert(x[tokens]) * weights[tokens, slot, None])
            else:
                mixed = mixed + expert(x) * (weights * (chosen == k)).sum(-1, keepdim=True)
        return self.head(torch.tanh(x + mixed))


def prepared(**kind: bool) -> tuple[Quotient, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Mixture(**kind).double()
    inputs, labels = wide(0)
    return infer_symmetries(model, cross_entropy, (inputs.double(), labels)), state_of(model)


@pytest.mark.filterwarnings("ignore:shockwatch")
@pytest.mark.parametrize("loop", [False, True])
def test_experts_change_places_with_the_rows_of_their_gate(loop: bool) -> None:
    quotient, state = prepared(loop=loop)
    (group,) = (g for g in quotient.groups if isinstance(g, ListPermutation))
    assert group.units.size == COUNT
    assert {n for n in group.parameters if "experts" not in n} == {"gate.weight"}
    assert {n for n in group.parameters if "experts" in n} == {n for n in state if n.startswith("experts")}
    order = torch.tensor([2, 0, 3, 1])
    moved = {n: t.clone() for n, t in state.items()}
    group.permute_(moved, order)
    assert torch.equal(moved["experts.0.w1.weight"], state["experts.2.w1.weight"])
    assert torch.equal(moved["gate.weight"], state["gate.weight"][order])


def test_the_quotient_forgets_the_order_of_experts_and_of_their_units() -> None:
    quotient, state = prepared()
    base = quotient.balance(state)
    canonical = quotient.canonicalize(state)
    for seed in range(3):
        moved = quotient.random_transform(state, torch.Generator().manual_seed(seed))
        assert quotient.distance(moved, state) < 1e-8 * quotient.norm(base)
        assert quotient.euclidean(quotient.canonicalize(moved), canonical) < 1e-8
        balanced = quotient.balance(moved)
        matched, found = quotient.match_with_order(balanced, base)
        again = found.apply(balanced)
        # an order is remembered without the signs that matching turned
        assert all(torch.allclose(matched[n].abs(), again[n].abs(), atol=1e-12) for n in quotient.names)


def test_layers_one_after_the_other_are_no_list_of_experts() -> None:
    quotient, _ = prepared(sequential=True)
    assert not any(isinstance(g, ListPermutation) for g in (*quotient.groups, *quotient.rejected))
