"""Which groups are found, and that every one of them leaves the loss alone."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.errors import ShockwatchWarning
from shockwatch.symmetry import infer_symmetries
from shockwatch.symmetry.groups import GeneralLinear
from shockwatch.symmetry.oracle import true_redundancy
from tests.symmetry.cases import BY_NAME, CASES, Case, cross_entropy, state_of, vectors


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_dimensions_by_kind(case: Case) -> None:
    quotient = infer_symmetries(case.model(), case.loss, case.data())
    found: Counter[str] = Counter()
    for group in quotient.groups:
        found[group.kind] += group.dim
    assert {kind: dim for kind, dim in found.items() if dim} == case.dims
    assert quotient.blocked == {}
    assert quotient.rejected == ()


# Left out: "residual", whose narrow hidden layer adds directions that no group explains, and "weight norm", where
# lengths can follow the scaling of single units (4 directions).
COMPLETE = [case.name for case in CASES if case.name not in ("residual", "weight norm")]


@pytest.mark.parametrize("name", COMPLETE)
def test_nothing_is_missed(name: str) -> None:
    case = BY_NAME[name]
    model = case.model()
    quotient = infer_symmetries(model, case.loss, case.data())
    assert quotient.dim_exact == true_redundancy(model, case.loss, case.data())


@pytest.mark.parametrize("name", ["residual", "weight norm"])
def test_never_more_than_there_are(name: str) -> None:
    case = BY_NAME[name]
    model = case.model()
    found = infer_symmetries(model, case.loss, case.data()).dim
    assert found <= true_redundancy(model, case.loss, case.data())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_residuals(case: Case) -> None:
    quotient = infer_symmetries(case.model(), case.loss, case.data())
    for group in quotient.groups:
        if group.approximate:
            assert 1e-9 < group.residual < 1e-2, "an eps of 1e-5 shows, and only a little"
        else:
            assert group.residual < 1e-12, (group.kind, group.name)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_float32_models_are_verified_in_float64(case: Case) -> None:
    model = case.model(torch.float32)
    quotient = infer_symmetries(model, case.loss, case.data(dtype=torch.float32))
    assert quotient.dim == sum(case.dims.values())


def test_evaluation_mode_keeps_the_function_too() -> None:
    """Batch norm's running statistics move with the weights."""
    case = BY_NAME["cnn"]
    model = case.model()
    model.train()
    for seed in range(5):
        model(case.data(seed)[0])
    quotient = infer_symmetries(model, case.loss, case.data())
    state = state_of(model)
    moved = quotient.random_transform(state, torch.Generator().manual_seed(1), 0.5, approximate=True)
    model.eval()
    before = case.loss(model, case.data(9))
    after = case.loss(copy.deepcopy(model).requires_grad_(False), case.data(9))
    assert before.detach() == after
    twin = copy.deepcopy(model)
    twin.load_state_dict({**model.state_dict(), **moved})
    assert abs(case.loss(twin, case.data(9)) - before).item() < 1e-3 * abs(before.item())
    exact = copy.deepcopy(model)
    exact.load_state_dict({**model.state_dict(), **quotient.random_transform(state, scale=0.5)})
    assert abs(case.loss(exact, case.data(9)) - before).item() < 1e-12


class Opaque(nn.Module):
    """An operator without a rule between two maps that would admit scalings."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.special.bessel_j0(self.a(x)))


def test_unknown_operator_means_no_symmetry_and_is_named() -> None:
    quotient = infer_symmetries(Opaque(), cross_entropy, vectors(0))
    assert set(quotient.blocked) == {"special_bessel_j0"}
    assert {g.kind for g in quotient.groups} == {"translation"}


class Gelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.gelu(self.a(x)))


def test_gelu_units_only_permute() -> None:
    quotient = infer_symmetries(Gelu(), cross_entropy, vectors(0))
    assert {g.kind for g in quotient.groups} == {"translation", "permutation"}


def test_no_symmetry_at_all() -> None:
    model = nn.Linear(6, 4)
    quotient = infer_symmetries(model, lambda m, b: F.mse_loss(m(b[0]), b[0][:, :4]), vectors(0))
    assert quotient.groups == ()
    state = state_of(model)
    for name, tensor in quotient.canonicalize(state).items():
        assert torch.equal(tensor, state[name])


def test_frozen_side_removes_the_freedom() -> None:
    model = BY_NAME["mlp"].model()
    model[0].weight.requires_grad_(False)
    quotient = infer_symmetries(model, cross_entropy, BY_NAME["mlp"].data())
    assert sum(g.dim for g in quotient.groups if g.kind == "positive scaling") == 7
    assert all("0.weight" not in g.parameters for g in quotient.groups)


def test_loss_that_reads_a_value() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        value = cross_entropy(model, batch)
        return value if value.item() > 0 else -value

    case = BY_NAME["mlp"]
    with pytest.warns(ShockwatchWarning, match="along the path that one batch takes"):
        quotient = infer_symmetries(case.model(), loss, case.data())
    assert quotient.dim == sum(case.dims.values())


def test_inference_changes_nothing() -> None:
    case = BY_NAME["cnn"]
    model = case.model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    infer_symmetries(model, case.loss, case.data())
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training
    assert all(m.training for m in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None for p in model.parameters())


def test_general_linear_on_an_axis_wider_than_both_sides() -> None:
    """GL(6) between 5 inputs and 4 outputs: 36, less (6 - 5) (6 - 4) that move nothing."""
    model = nn.Sequential(
        nn.Linear(5, 6, bias=False), nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 8)
    )
    quotient = infer_symmetries(model.double(), cross_entropy, vectors64(5, 8))
    assert sum(g.dim for g in quotient.groups if g.kind == "general linear") == 34
    assert quotient.dim_exact == true_redundancy(model, cross_entropy, vectors64(5, 8)) == 34 + 1 + 4


def test_scaling_made_of_finer_ones_is_counted_once() -> None:
    """A channel's gain against the last map is its gain against a grouped convolution, times that against the map."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 4, 1, groups=2, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 8),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 1, 2, 2, generator=generator, dtype=torch.float64)
    quotient = infer_symmetries(model.double(), cross_entropy, (images, torch.arange(12) % 8))
    assert sum(g.dim for g in quotient.groups if g.kind == "positive scaling") == 2 + 4


def vectors64(width: int, classes: int) -> tuple[Tensor, Tensor]:
    x, y = vectors(0, width, classes)
    return x.double(), y


def test_an_empty_slice_says_nothing() -> None:
    """What rotary code leaves of a head whose features are all rotary: ``x[..., size:]``, put back by ``cat``."""

    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((torch.relu(x[..., :7]), x[..., 7:]), dim=-1)

    model = nn.Sequential(nn.Linear(5, 7), Cut(), nn.Linear(7, 8)).double()
    quotient = infer_symmetries(model, cross_entropy, vectors64(5, 8))
    assert sum(g.dim for g in quotient.groups if g.kind == "positive scaling") == 7
    assert quotient.dim_exact == true_redundancy(model, cross_entropy, vectors64(5, 8))


def test_queries_and_keys_are_told_from_other_linear_pairs() -> None:
    """Only where a softmax reads the product does a block carry ``logit_norm``, the norm of a head over its root."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).double()
    batch = torch.randn(3, 4, 8).double()
    quotient = infer_symmetries(model, lambda m, x: m(x).square().mean(), batch)
    blocks = [group for group in quotient.groups if isinstance(group, GeneralLinear)]
    point = quotient.canonicalize(dict(model.named_parameters()))
    norms = {tag: value for tag, value in quotient.invariants(point).items() if tag.endswith("/logit_norm")}
    (scores,) = [group for group in blocks if group.scores]
    assert list(norms) == [f"block/{scores.name}/logit_norm"]
    weight, bias = model.self_attn.in_proj_weight, model.self_attn.in_proj_bias
    query, key, _ = torch.cat([weight, bias[:, None]], 1).detach().chunk(3)
    key = key.clone()
    key[:, -1] = 0.0  # a key's bias moves no softmax
    heads = [query[rows].T @ key[rows] for rows in (slice(0, 4), slice(4, 8))]
    expected = max(float(torch.linalg.matrix_norm(head, 2)) for head in heads) / 2.0
    assert norms[f"block/{scores.name}/logit_norm"] == pytest.approx(expected)
    assert len(blocks) > 1
