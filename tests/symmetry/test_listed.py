"""Experts and heads in a list of modules change places, together with what reads or writes them one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.groups import ListPermutation
from tests.symmetry.cases import BY_NAME, cross_entropy, state_of, wide
from tests.symmetry.test_quotient import prepared as of_case

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


BESIDE = {
    "listed experts": {"router.weight", "router.bias"},
    "best listed experts": {"router.weight", "router.bias"},
    "listed heads": {"o.weight"},
    "summed heads": set(),
}


@pytest.mark.parametrize("name", BESIDE)
def test_members_of_a_list_in_another_order_are_the_same_network(name: str) -> None:
    """Reordered by hand, moved in every gauge, and trained a little: the distance is that of the training alone."""
    _, _, quotient, state = of_case(name)
    (group,) = (g for g in quotient.groups if isinstance(g, ListPermutation))
    inside = {n for n in state if n.startswith(("experts.", "heads."))}
    assert set(group.parameters) == inside | BESIDE[name]
    order = [2, 0, 1, *range(3, group.units.size)]
    moved = {n: t.clone() for n, t in state.items()}
    for n in inside:
        prefix, number, rest = n.split(".", 2)
        moved[n] = state[f"{prefix}.{order[int(number)]}.{rest}"].clone()
    for n in BESIDE[name] - {"o.weight"}:
        moved[n] = state[n][order]
    if "o.weight" in BESIDE[name]:
        moved["o.weight"] = state["o.weight"].unflatten(1, (3, 2))[:, order].flatten(1)
    case = BY_NAME[name]
    losses = [
        float(case.loss(lambda x, s=s: functional_call(case.model(), s, (x,)), case.data()))
        for s in (state, moved)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    base = quotient.balance(state)
    turned = quotient.random_transform(moved, torch.Generator().manual_seed(1), 0.5)
    assert quotient.distance(turned, state) < 1e-8 * quotient.norm(base)
    generator = torch.Generator().manual_seed(2)
    noise = {n: 1e-2 * torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in base.items()}
    near = {n: base[n] + noise[n] for n in base}
    apart = quotient.euclidean(quotient.canonicalize(near, base), base)
    group.permute_(near, torch.tensor(order))
    turned = quotient.random_transform(near, torch.Generator().manual_seed(3), 0.5)
    assert quotient.distance(turned, state) == pytest.approx(apart, rel=1e-6)
