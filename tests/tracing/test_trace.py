"""The traced step is the step: value, gradient and curvature against autograd on the module itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.symmetry import infer_symmetries
from shockwatch.tracing import StepLoss, trace_step
from shockwatch.tracing.decompositions import decomposition_table
from tests.symmetry.cases import CASES, Case


def evaluated(model: nn.Module) -> nn.Module:
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_value_and_gradient(case: Case) -> None:
    model, batch = evaluated(case.model()), case.data(5)
    traced = StepLoss(trace_step(model, case.loss, case.data(0)), batch)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    value, gradient = traced.gradient(tensors, tensors)
    loss = case.loss(model, batch)
    expected = torch.autograd.grad(loss, [dict(model.named_parameters())[n] for n in traced.names])
    assert value == pytest.approx(float(loss.detach()), rel=1e-12)
    for ours, theirs in zip(gradient, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_hessian_product_against_differences(case: Case) -> None:
    model, batch = evaluated(case.model()), case.data(5)
    traced = StepLoss(trace_step(model, case.loss, case.data(0)), batch)
    state = {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}
    generator = torch.Generator().manual_seed(0)
    vector = [torch.randn(state[n].shape, generator=generator, dtype=torch.float64) for n in traced.names]
    _, _, product = traced.linearize(state, state)
    size = 1e-6

    def shifted(sign: float) -> list[Tensor]:
        moved = {n: state[n] + sign * size * v for n, v in zip(traced.names, vector, strict=True)}
        return traced.gradient({**state, **moved}, state)[1]

    for ours, up, down in zip(product(vector), shifted(1), shifted(-1), strict=True):
        assert torch.allclose(ours, (up - down) / (2 * size), rtol=1e-4, atol=1e-6)


def test_nothing_is_drawn_and_nothing_stays() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 4)).train()
    before = torch.get_rng_state()
    trace = trace_step(
        model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), (torch.ones(3, 6), torch.tensor([0, 1, 2]))
    )
    assert torch.equal(before, torch.get_rng_state())
    assert not trace.draws_random_numbers
    assert model.training


def test_random_steps_are_noticed() -> None:
    model = nn.Linear(6, 4)
    trace = trace_step(model, lambda m, b: m(b + torch.randn_like(b)).square().sum(), torch.ones(3, 6))
    assert trace.draws_random_numbers


@pytest.mark.parametrize("causal", [False, True])
def test_plain_attention_is_the_fused_one(causal: bool) -> None:
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    plain = decomposition_table()[kernel](q, k, v, 0.0, causal)
    fused = kernel(q, k, v, 0.0, causal)
    assert torch.allclose(plain[0], fused[0], atol=1e-12)
    assert plain[0].transpose(1, 2).is_contiguous()


def test_batch_of_another_structure_is_refused() -> None:
    model = nn.Linear(6, 4)
    trace = trace_step(model, lambda m, b: m(b[0]).sum(), (torch.ones(3, 6),))
    with pytest.raises(ValueError, match="must have the structure"):
        trace.leaves({"x": torch.ones(3, 6)})


class Averaged(nn.Module):
    """A matrix made inside the step, of the type of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        mean = torch.tril(torch.ones(len(x), len(x))) @ hidden
        return self.second(mean * (torch.full((5,), 0.5) @ torch.eye(5)))


def test_tensors_made_in_the_step_follow_its_type() -> None:
    model, x = Averaged(), torch.randn(6, 4)
    trace = trace_step(model, lambda m, b: m(b).square().mean(), x)
    state = {name: p.detach().double() for name, p in model.named_parameters()}
    value = StepLoss(trace.in_dtype(torch.float64), x.double()).value(state, {})
    assert value == pytest.approx(float(model(x).square().mean()), rel=1e-5)
    assert infer_symmetries(model, lambda m, b: m(b).square().mean(), x).dim == 5
