"""Models that compute a part in single precision: what is exact by itself, and what only to that precision."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.symmetry import infer_symmetries
from shockwatch.symmetry.oracle import true_redundancy
from shockwatch.tracing import trace_step
from tests.symmetry.cases import BY_NAME, cross_entropy, vectors, words
from tests.symmetry.streams import Llama


def rounded_llama(dtype: torch.dtype, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Llama(torch.float32).to(dtype)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("seed", range(5))
def test_rotation_through_a_norm_in_single_precision_is_approximate(seed: int) -> None:
    model = rounded_llama(torch.float64, seed)
    quotient = infer_symmetries(model, cross_entropy, words(seed), seed=seed)
    others = [g for g in quotient.groups if g.kind != "rotation"]
    (rotation,) = (g for g in quotient.groups if g.kind == "rotation")
    assert 1e-9 < rotation.residual < 1e-6
    assert rotation.approximate
    assert "float32" in rotation.evidence
    # The size of the stream, which an eps makes approximate anyway.
    assert [g.dim for g in others if g.approximate] == [1]
    assert all(g.residual < 1e-12 for g in others if not g.approximate)
    assert (quotient.dim_exact, quotient.dim) == (62, 62 + 28 + 1)


def test_both_counts_are_the_true_ones() -> None:
    model = rounded_llama(torch.float64)
    assert true_redundancy(model, cross_entropy, words(0)) == 62
    assert true_redundancy(model, cross_entropy, words(0), keep_casts=False) == 90


def test_the_stated_residual_against_the_module_itself() -> None:
    """The literal model, without our graph: the change of its loss is of the size that is stated, and not rounding."""
    model = rounded_llama(torch.float64)
    quotient = infer_symmetries(model, cross_entropy, words(0))
    (rotation,) = (g for g in quotient.groups if g.kind == "rotation")
    base = float(cross_entropy(model, words(0)).detach())
    changes = []
    for seed in range(5):
        moved = copy.deepcopy(model)
        state = {name: p.detach() for name, p in moved.named_parameters()}
        with torch.no_grad():
            rotation.transform_(state, torch.Generator().manual_seed(seed), 0.5)
        changes.append(abs(float(cross_entropy(moved, words(0)).detach()) / base - 1))
    assert 1e-11 < max(changes) < 10 * rotation.residual


def test_a_model_in_single_precision_has_no_cast() -> None:
    model = rounded_llama(torch.float32)
    assert trace_step(model, cross_entropy, words(0)).casts() == []
    quotient = infer_symmetries(model, cross_entropy, words(0))
    assert (quotient.dim_exact, quotient.dim) == (90, 90 + 1)


def test_a_loss_in_single_precision_hides_the_shift_of_its_logits_only() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]).float(), batch[1])

    model = BY_NAME["mlp"].model()
    quotient = infer_symmetries(model, loss, vectors(0))
    by_kind = {g.kind: g for g in quotient.groups if g.dim}
    assert {g.approximate for g in quotient.groups if g.kind == "positive scaling"} == {False}
    assert by_kind["translation"].approximate
    assert quotient.dim_exact == true_redundancy(model, loss, vectors(0)) == 16
