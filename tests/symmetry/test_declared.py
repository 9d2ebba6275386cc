"""Groups declared by hand: measured like the rest, never counted twice, and as good as those that are found."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.errors import ShockwatchWarning
from shockwatch.symmetry import Declared, Quotient, Side, infer_symmetries
from shockwatch.symmetry.oracle import true_redundancy
from tests.symmetry.cases import BY_NAME, cross_entropy, state_of
from tests.tracing.hostile import Activation, described_relu, loss

HIDDEN = Declared("positive scaling", [Side("a.weight"), Side("a.bias"), Side("b.weight", 1, -1)])
UNITS = Declared("permutation", [Side("a.weight"), Side("a.bias"), Side("b.weight", 1)])


def opaque() -> nn.Module:
    """6-9-7-4 whose first activation is a kernel the analysis does not know."""
    torch.manual_seed(3)
    return Activation(described_relu).double()


def vectors(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(24, 6, generator=g, dtype=torch.float64), torch.randint(0, 4, (24,), generator=g)


def inferred(model: nn.Module, *declared: Declared) -> tuple[Quotient, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quotient = infer_symmetries(model, loss, vectors(), declared=declared)
    return quotient, [str(w.message) for w in caught if issubclass(w.category, ShockwatchWarning)]


def test_what_the_kernel_hides_is_declared() -> None:
    model = opaque()
    assert inferred(model)[0].dim == 15
    quotient, said = inferred(model, HIDDEN, UNITS)
    assert said == []
    assert quotient.dim_exact == 24 == true_redundancy(model, loss, vectors())
    (group,) = (g for g in quotient.groups if g.evidence == "declared" and g.dim)
    assert (group.kind, group.dim) == ("positive scaling", 9)
    assert group.residual < 1e-12


def test_observables_are_those_of_the_network_without_the_kernel() -> None:
    """The same weights under ``relu`` instead of the kernel: every group is found there, and all numbers agree."""
    model = opaque()
    declared, _ = inferred(model, HIDDEN, UNITS)
    found, _ = inferred(Activation(F.relu).double())
    state, other = state_of(model), state_of(opaque())
    other["a.weight"] = other["a.weight"] + 0.1 * torch.randn(9, 6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    moved = declared.random_transform(state, generator, 1.0)
    assert max((moved[n] - state[n]).abs().max() for n in state) > 0.1
    for quotient in (declared, found):
        assert quotient.observables(moved)["quotient/norm"] == pytest.approx(
            found.observables(state)["quotient/norm"], rel=1e-9
        )
        assert quotient.distance(moved, other) == pytest.approx(found.distance(state, other), rel=1e-6)
    canonical = declared.canonicalize(moved)
    again = declared.canonicalize(canonical)
    assert all(torch.allclose(canonical[n], again[n], atol=1e-10) for n in canonical)
    tangent = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in state.items()}
    point = found.canonicalize(state)
    ours, theirs = declared.horizontal(point, tangent), found.horizontal(point, tangent)
    assert all(torch.allclose(ours[n], theirs[n], atol=1e-9) for n in ours)


def test_a_wrong_declaration_is_refused_with_its_residual() -> None:
    wrong = Declared("positive scaling", [Side("a.weight"), Side("b.weight", 1, -1)])
    quotient, said = inferred(opaque(), wrong)
    assert quotient.dim == 15
    assert [g.evidence for g in quotient.rejected] == ["declared"]
    assert quotient.rejected[0].residual > 1e-4
    assert len(said) == 1
    assert f"changes the loss by {quotient.rejected[0].residual:.1e}" in said[0]


@pytest.mark.parametrize(
    ("declaration", "reason"),
    [
        (
            Declared("positive scaling", [Side("b.weight"), Side("b.bias"), Side("c.weight", 1, -1)]),
            "lies inside b-c, c already",
        ),
        (
            Declared(
                "positive scaling", [Side("b.weight", 0, -2), Side("b.bias", 0, -2), Side("c.weight", 1, 2)]
            ),
            "lies inside b-c, c already",
        ),
        (Declared("translation", [Side("c.bias")]), "lies inside .* already"),
        (
            Declared("permutation", [Side("b.weight"), Side("b.bias"), Side("c.weight", 1)]),
            "is b already",
        ),
    ],
)
def test_what_is_known_already_is_not_counted_twice(declaration: Declared, reason: str) -> None:
    plain, _ = inferred(opaque())
    quotient, said = inferred(opaque(), declaration)
    assert quotient.dim == plain.dim
    assert len(said) == 1
    assert re.search(reason, said[0]), said[0]


def test_twice_the_same_declaration_counts_once() -> None:
    quotient, said = inferred(opaque(), HIDDEN, HIDDEN)
    assert quotient.dim == 24
    assert len(said) == 1


def test_parts_that_overlap_are_refused() -> None:
    """Units 0-5 were declared; the declaration of all nine would count them again."""
    part = Declared(
        "positive scaling",
        [Side("a.weight", rows=(0, 6)), Side("a.bias", rows=(0, 6)), Side("b.weight", 1, -1, rows=(0, 6))],
    )
    rest = Declared(
        "positive scaling",
        [Side("a.weight", rows=(4, 9)), Side("a.bias", rows=(4, 9)), Side("b.weight", 1, -1, rows=(4, 9))],
    )
    quotient, said = inferred(opaque(), part, rest)
    assert quotient.dim == 15 + 6
    assert "overlaps in part" in said[0]
    quotient, said = inferred(opaque(), part, HIDDEN)
    assert (quotient.dim, said) == (24, []), "the whole takes the place of its part"


def test_heads_of_a_packed_projection() -> None:
    """Declared on a model whose groups are found: the same directions, so nothing is added."""
    case = BY_NAME["packed attention"]
    model = case.model()
    declaration = Declared(
        "general linear",
        [
            *(Side(f"qkv.{part}", rows=(0, 6)) for part in ("weight", "bias")),
            *(Side(f"qkv.{part}", power=-1, rows=(6, 12)) for part in ("weight", "bias")),
        ],
        blocks=2,
    )
    with pytest.warns(ShockwatchWarning, match="lies inside"):
        quotient = infer_symmetries(model, case.loss, case.data(), declared=[declaration])
    assert quotient.dim == sum(case.dims.values())


class Kernel(nn.Module):
    """Two linear maps with an operator without a rule between them, linear all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5, bias=False), nn.Linear(5, 6, bias=False), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.fft.irfft(torch.fft.rfft(self.a(x), dim=0), n=len(x), dim=0)
        return self.c(torch.tanh(self.b(h)))


def test_general_linear_through_an_opaque_operator() -> None:
    torch.manual_seed(0)
    model = Kernel().double()
    declaration = Declared("general linear", [Side("a.weight"), Side("b.weight", 1, -1)])
    plain = infer_symmetries(model, cross_entropy, vectors())
    quotient = infer_symmetries(model, cross_entropy, vectors(), declared=[declaration])
    assert plain.blocked
    assert quotient.dim == plain.dim + 25
    state = state_of(model)
    moved = quotient.random_transform(state, torch.Generator().manual_seed(1))
    assert quotient.distance(state, moved) < 1e-9 * quotient.norm(state)
    assert quotient.observables(moved)["quotient/norm"] == pytest.approx(
        quotient.observables(state)["quotient/norm"], rel=1e-10
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Side(""), "parameter=''"),
        (lambda: Side("a", -1), "axis=-1"),
        (lambda: Side("a", 0, 0.0), "power=0.0"),
        (lambda: Side("a", 0, 1, (3, 3)), r"rows=\(3, 3\)"),
        (lambda: Declared("scaling", [Side("a")]), "kind='scaling': must be one of 'positive scaling'"),
        (lambda: Declared("positive scaling", []), r"sides=\[\]"),
        (lambda: Declared("positive scaling", [Side("a")], 2), "blocks=2"),
        (lambda: Declared("general linear", [Side("a")]), r"power=\[1.0\]"),
        (lambda: Declared("real scaling", [Side("a", 0, 0.5)]), r"power=\[0.5\]"),
        (lambda: Declared("scale invariance", [Side("a"), Side("b", 0, -1)]), r"power=\[-1.0, 1.0\]"),
        (lambda: Declared("translation", [Side("a"), Side("b")]), "sides=2"),
        (lambda: Declared("permutation", [Side("a")], 0), "blocks=0"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (Side("d.weight"), r"parameter='d.weight': must be a trainable parameter of the model \(a.weight"),
        (Side("a.weight", 2), r"axis=2: a.weight has shape \(9, 6\)"),
        (Side("a.weight", rows=(4, 10)), r"rows=\(4, 10\): axis 0 of a.weight ends at 9"),
        (Side("b.weight"), "b.weight axis 0: 7.*must be of one length"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(side: Side, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infer_symmetries(
            opaque(), loss, vectors(), declared=[Declared("positive scaling", [side, Side("a.bias", 0, -1)])]
        )
