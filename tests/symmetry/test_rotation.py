"""Streams that may turn, and streams that something else reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.groups import Rotation
from tests.symmetry.cases import BY_NAME, Case, cross_entropy, state_of, vectors, words
from tests.symmetry.spans import generators
from tests.symmetry.streams import Llama, Stack


def rotations(quotient: Quotient) -> list[Rotation]:
    return [g for g in quotient.groups if isinstance(g, Rotation)]


@pytest.mark.parametrize("name", ["llama", "vision", "stack"])
def test_element(name: str) -> None:
    """Writers turn by one orthogonal matrix; it fixes the ones exactly where a norm removes the mean."""
    case: Case = BY_NAME[name]
    model = case.model()
    (group,) = rotations(infer_symmetries(model, case.loss, case.data()))
    before = {k: v.clone() for k, v in state_of(model).items()}
    after = {k: v.clone() for k, v in before.items()}
    group.transform_(after, torch.Generator().manual_seed(0), 1.0)
    writer = {"llama": "token.weight", "vision": "patch.weight", "stack": "inp.weight"}[name]
    old, new = (s[writer].T if name == "llama" else s[writer] for s in (before, after))
    turn = new @ torch.linalg.pinv(old)
    eye = torch.eye(len(turn), dtype=torch.float64)
    assert torch.allclose(turn @ turn.T, eye, atol=1e-10)
    assert not torch.allclose(turn, eye, atol=0.1)
    ones = torch.ones(len(turn), dtype=torch.float64)
    assert torch.allclose(turn @ ones, ones, atol=1e-10) == (name != "llama")
    gains = [k for k in before if "norm" in k and k.endswith("weight")]
    assert all(torch.equal(before[k], after[k]) for k in gains)


@pytest.mark.parametrize("name", ["llama", "vision", "stack"])
def test_equal_gains_make_it_an_isometry(name: str) -> None:
    case = BY_NAME[name]
    model = case.model()
    quotient = infer_symmetries(model, case.loss, case.data())
    point = quotient.canonicalize(state_of(model))
    (group,) = rotations(quotient)
    for gain in group.gains:
        assert torch.allclose(point[gain.name].abs(), point[gain.name].abs()[:1], rtol=1e-12)
    turned = Quotient([group], quotient.names).random_transform(point, torch.Generator().manual_seed(3), 1.0)
    assert quotient.euclidean(turned, point) > 0.1
    assert quotient.norm(turned) == pytest.approx(quotient.norm(point), rel=1e-13)
    back = quotient.canonicalize(turned, point)
    assert quotient.euclidean(back, point) < 1e-10


def test_projection_removes_the_span_of_all_generators_and_no_more() -> None:
    case = BY_NAME["stack"]
    model = case.model()
    quotient = infer_symmetries(model, case.loss, case.data())
    point = quotient.canonicalize(state_of(model))
    basis = torch.linalg.svd(generators(quotient, point), full_matrices=False)
    rank = int((1e-10 * basis.S[0] < basis.S).sum())
    assert rank == quotient.dim
    span = basis.Vh[:rank]
    project = quotient.projector(point)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        vector = torch.randn(span.shape[1], generator=generator, dtype=torch.float64)
        inside = quotient.flatten(project(quotient.unflatten(vector, point)))
        assert torch.allclose(inside, vector - span.T @ (span @ vector), atol=1e-9)


def test_distance_to_another_network_is_no_more_than_the_raw_one() -> None:
    case = BY_NAME["stack"]
    model = case.model()
    quotient = infer_symmetries(model, case.loss, case.data())
    a = quotient.canonicalize(state_of(model))
    generator = torch.Generator().manual_seed(0)
    b = {k: v + 0.01 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in a.items()}
    plain = quotient.distance(a, b)
    for seed in range(3):
        moved = quotient.random_transform(b, torch.Generator().manual_seed(seed))
        assert quotient.distance(a, moved) == pytest.approx(plain, rel=1e-6)
    assert 0 < plain < quotient.euclidean(a, b)


class Small(nn.Module):
    """One block on a stream of four, small enough for dense Hessians."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.up, self.down, self.out = (
            nn.Linear(a, b) for a, b in ((5, 4), (4, 3), (3, 4), (4, 5))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        h = h + self.down(F.gelu(self.up(self.norms[0](h))))
        return self.out(self.norms[1](h))


def test_spectrum_is_the_same_in_every_gauge() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Small().double()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    x, y = vectors(0, 5, 5)
    batch = (x.double(), y)
    quotient = infer_symmetries(model, cross_entropy, batch)
    assert [g.dim for g in rotations(quotient)] == [3]
    spectra, raw = [], []
    for seed in range(2):
        gauge = quotient.random_transform(state_of(model), torch.Generator().manual_seed(seed))
        operator = quotient.hessian(model, cross_entropy, batch, gauge)
        dense = operator.matmat(np.eye(operator.shape[0]))
        assert np.abs(dense - dense.T).max() < 1e-8
        spectra.append(np.linalg.eigvalsh((dense + dense.T) / 2))
        raw.append(quotient.norm(gauge))
    assert max(raw) > 1.1 * min(raw)
    for other in spectra[1:]:
        assert np.abs(other - spectra[0]).max() < 1e-7 * np.abs(spectra[0]).max()


class Read(Stack):
    """Something besides the norms sees the stream."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        return super().forward(x) + torch.tanh(h).mean(1, keepdim=True)


class Scaled(Stack):
    """Each branch has gains of its own before it joins the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        h = h + self.scale * self.down[0](torch.sigmoid(self.up[0](self.norms[0](h))))
        return self.out(self.norms[2](h))


class Tied(Llama):
    """Words that are read and written cannot turn both ways through the gain."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.token.weight


@pytest.mark.parametrize("build", [Read, Scaled, Tied])
def test_not_where_something_else_reads_the_stream(build: type[nn.Module]) -> None:
    model = build().double()
    batch = words(0) if build is Tied else vectors(0, 9, 10)
    batch = (batch[0].double() if batch[0].is_floating_point() else batch[0], batch[1])
    quotient = infer_symmetries(model, cross_entropy, batch)
    assert rotations(quotient) == []
    assert not any(isinstance(g, Rotation) for g in quotient.rejected)


def test_not_where_a_part_is_frozen() -> None:
    model = BY_NAME["stack"].model()
    model.up[1].requires_grad_(False)
    assert rotations(infer_symmetries(model, cross_entropy, BY_NAME["stack"].data())) == []


def test_a_gain_at_zero_stays_finite() -> None:
    case = BY_NAME["stack"]
    model = case.model()
    quotient = infer_symmetries(model, case.loss, case.data())
    state = {k: v.clone() for k, v in state_of(model).items()}
    state["norms.0.weight"][2] = 0
    point = quotient.canonicalize(state)
    assert all(bool(torch.isfinite(t).all()) for t in point.values())
    tangent = {n: torch.ones_like(point[n]) for n in quotient.names}
    assert all(bool(torch.isfinite(t).all()) for t in quotient.horizontal(point, tangent).values())
