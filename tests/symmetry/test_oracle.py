"""The oracle against directions counted by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.symmetry import oracle
from shockwatch.symmetry.oracle import rank, redrawn, true_redundancy
from tests.symmetry.cases import BY_NAME, cross_entropy, state_of, vectors


@pytest.mark.parametrize("name", ["mlp", "swiglu", "attention", "low rank", "linear", "odd", "tied"])
def test_counts_what_was_counted_by_hand(name: str) -> None:
    case = BY_NAME[name]
    approximate = 1 if name == "tied" else 0
    assert true_redundancy(case.model(), case.loss, case.data()) == sum(case.dims.values()) - approximate


def test_the_worked_numbers_of_the_theory() -> None:
    assert true_redundancy(BY_NAME["mlp"].model(), cross_entropy, vectors(0)) == 24
    narrow = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((6, 5), (5, 5), (5, 4))))
    # 25 + 25 for the axes between the maps, 5 of the logits, and 2 from the narrow output that no group explains
    assert true_redundancy(narrow, cross_entropy, vectors(0)) == 57


def test_float32_and_zero_weights_do_not_matter() -> None:
    """The point is generic and in float64, wherever the model stands."""
    case = BY_NAME["low rank"]
    model = case.model(torch.float32)
    model.b.weight.data.zero_()
    assert true_redundancy(model, case.loss, case.data(dtype=torch.float32)) == 4


def test_approximate_directions_do_not_count() -> None:
    case = BY_NAME["cnn"]
    expected = sum(dim for kind, dim in case.dims.items() if kind != "scale invariance")
    assert true_redundancy(case.model(), case.loss, case.data()) == expected


def test_none() -> None:
    model = nn.Linear(8, 7)
    assert true_redundancy(model, BY_NAME["linear"].loss, BY_NAME["linear"].data(dtype=torch.float32)) == 0


def test_directions_no_finder_looks_for() -> None:
    """The target is a part of the input: the loss depends on the difference to it up to a rotation, O(4)."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[0][:, :4])

    assert true_redundancy(nn.Linear(6, 4), loss, vectors(0)) == 6


@pytest.mark.parametrize("seed", range(8))
def test_a_dead_unit_at_a_drawn_point_does_not_count(seed: int) -> None:
    """At some points that these seeds draw, a channel is dead on every image."""
    case = BY_NAME["grouped cnn"]
    assert true_redundancy(case.model(), case.loss, case.data(), seed=seed) == 49


def test_parameters_the_loss_does_not_read_are_all_redundant() -> None:
    model = nn.Linear(6, 4)
    assert true_redundancy(model, lambda m, b: b[0].sum() + 0 * m.bias.sum(), vectors(0)) == 28


def test_frozen_parameters_are_no_directions() -> None:
    model = BY_NAME["mlp"].model()
    model[0].requires_grad_(False)
    assert true_redundancy(model, cross_entropy, vectors(0)) == 7 + 8


@pytest.mark.parametrize("seed", [1, 2])
def test_any_seed_gives_the_same_number(seed: int) -> None:
    assert true_redundancy(BY_NAME["mlp"].model(), cross_entropy, vectors(0), seed=seed) == 24


def test_model_and_generators_are_left_alone() -> None:
    case = BY_NAME["cnn"]
    model = case.model().train()
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    generator = torch.get_rng_state()
    true_redundancy(model, case.loss, case.data())
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(model).items())
    assert all(p.grad is None for p in model.parameters())


def test_too_many_parameters() -> None:
    model = nn.Linear(100, 100)
    with pytest.raises(ValueError, match=r"model=Linear with 10,100 trainable parameters.*at most 10,000"):
        true_redundancy(model, cross_entropy, vectors(0, 100, 100))
    model.bias.requires_grad_(False)
    oracle.require_small(model)


def test_gradient_that_is_not_finite() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0]).sum().sqrt() + model(batch[0]).sum().neg().sqrt()

    with pytest.raises(ValueError, match="finite"):
        true_redundancy(nn.Linear(6, 4), loss, vectors(0))


def test_batches_keep_shape_type_and_range() -> None:
    ids = torch.randint(3, 17, (50, 6))
    labels = torch.where(torch.rand(50, 6) < 0.3, -100, ids)
    batch = {"x": torch.rand(50, 6), "ids": ids, "labels": labels, "mask": ids > 9, "name": "a"}
    drawn = redrawn(batch, torch.Generator().manual_seed(0))
    assert drawn["name"] == "a"
    assert torch.equal(drawn["mask"], batch["mask"])
    assert drawn["x"].dtype == torch.float32
    assert abs(drawn["x"].mean()) < 0.3
    assert 0.8 < drawn["x"].std() < 1.2
    for key in ("ids", "labels"):
        assert drawn[key].dtype == torch.int64
        assert not torch.equal(drawn[key], batch[key])
    assert set(drawn["ids"].flatten().tolist()) == set(ids.flatten().tolist())
    assert torch.equal(drawn["labels"] == -100, labels == -100)
    again = redrawn(batch, torch.Generator().manual_seed(0))
    assert all(torch.equal(again[key], drawn[key]) for key in ("x", "ids", "labels"))


@pytest.mark.parametrize("true", [0, 1, 7, 12])
def test_rank_of_a_product(true: int) -> None:
    generator = torch.Generator().manual_seed(true)
    left, right = (torch.randn(*s, generator=generator).double() for s in ((20, true), (true, 12)))
    assert rank(torch.linalg.svdvals(left @ right)) == true
