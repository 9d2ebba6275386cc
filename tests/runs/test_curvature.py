"""The two ends of the spectrum, as the engine measures them, against dense algebra and against theory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from shockwatch.curvature import CanonicalLoss
from shockwatch.engine import Engine
from shockwatch.shock import probe
from shockwatch.snapshot import Snapshot, State
from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.tracing import StepLoss, trace_step

Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Attention(nn.Module):
    """One attention layer with two heads and one MLP, both on a residual stream of width 16."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(16, 20), nn.Linear(20, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        b, t, _ = x.shape
        q, k, v = (part(self.first(x)).view(b, t, 2, 8).transpose(1, 2) for part in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1)
        x = x + self.o((weights @ v).transpose(1, 2).reshape(b, t, 16))
        x = x + self.down(self.up(self.second(x)).relu())
        return self.head(x.mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 36), nn.ReLU(), nn.Linear(36, 4))


@dataclass(frozen=True)
class Trained:
    model: nn.Module
    batch: Batch
    quotient: Quotient
    state: State
    loss_fn: Callable[[nn.Module, Batch], Tensor] = loss_fn


@functools.cache
def trained(name: str) -> Trained:
    """About 2,000 parameters in float64, half-way down."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    model = (mlp() if name == "mlp" else Attention()).double()
    x = (
        torch.randn(48, 10, generator=g).double()
        if name == "mlp"
        else torch.randint(0, 11, (48, 6), generator=g)
    )
    batch = (x, torch.randint(0, 4, (48,), generator=g))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    state = {n: p.detach().clone() for n, p in model.named_parameters()}
    return Trained(model, batch, infer_symmetries(model, loss_fn, batch), state)


def horizontal_basis(quotient: Quotient, point: State) -> Tensor:
    """Orthonormal columns that span the horizontal space: the complement of the range of ``1 - P``.

    ``1 - P`` has rank ``quotient.dim``, so that many random vectors and a few more show all of its range.
    """
    count = quotient.flatten(point).numel()
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(quotient.dim + 4, count, generator=g, dtype=torch.float64)
    columns = [d - quotient.flatten(quotient.horizontal(point, quotient.unflatten(d, point))) for d in draws]
    left, sizes, _ = torch.linalg.svd(torch.stack(columns, 1))
    assert sizes[quotient.dim :].max() < 1e-9 * sizes[0]
    assert sizes[quotient.dim - 1] > 1e-6 * sizes[0]
    return left[:, quotient.dim :]


@functools.cache
def dense_spectrum(name: str) -> tuple[State, Tensor]:
    """Canonical point and all eigenvalues of ``P H P`` on the horizontal space; ``H`` by plain autograd."""
    case = trained(name)
    point = case.quotient.canonicalize(case.state)
    names = case.quotient.names

    def flat_loss(vector: Tensor) -> Tensor:
        parts = torch.split(vector, [point[n].numel() for n in names])
        swapped = {n: part.reshape(point[n].shape) for n, part in zip(names, parts, strict=True)}
        return F.cross_entropy(functional_call(case.model, swapped, (case.batch[0],)), case.batch[1])

    at = case.quotient.flatten(point).requires_grad_(True)
    (gradient,) = torch.autograd.grad(flat_loss(at), at, create_graph=True)
    full = torch.stack([torch.autograd.grad(g, at, retain_graph=True)[0] for g in gradient])
    basis = horizontal_basis(case.quotient, point)
    reduced = basis.T @ full @ basis
    return point, torch.linalg.eigvalsh(0.5 * (reduced + reduced.T))


def reduced_loss(case: Trained, point: State) -> CanonicalLoss:
    step = StepLoss(trace_step(case.model, case.loss_fn, case.batch), case.batch)
    return CanonicalLoss(case.quotient, step, point, {})


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_both_ends_within_one_percent_of_dense_algebra(name: str) -> None:
    case = trained(name)
    assert 1900 <= sum(p.numel() for p in case.model.parameters()) <= 2100
    point, spectrum = dense_spectrum(name)
    assert float(spectrum[0]) < -1e-3
    warm = None
    for seed in range(2):  # a cold start, and a warm one
        seen = probe(reduced_loss(case, point), warm, torch.Generator().manual_seed(seed))
        assert seen.lambda_min == pytest.approx(float(spectrum[0]), rel=1e-2)
        assert seen.lambda_max == pytest.approx(float(spectrum[-1]), rel=1e-2)
        warm = seen.recycled


def test_every_plateau_reads_the_next_singular_value() -> None:
    """At the saddle where the first k modes are learned ``lambda_min = -s_{k+1}`` (theory.md 5)."""
    values = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=torch.float64)).Q for _ in range(2))
    target = left @ torch.diag(values) @ right
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()

    def squared(module: nn.Module, batch: Batch) -> Tensor:
        return 0.5 * (module(batch[0]) - batch[1]).square().sum()

    batch = (torch.eye(4, dtype=torch.float64), target.T.contiguous())
    quotient = infer_symmetries(model, squared, batch)
    engine = Engine.build(model, squared, batch, horizon=200, seed=0, probe=True)
    for learned in range(4):
        sizes = values.clone()
        sizes[learned:] = 1e-4
        root = torch.diag(sizes.sqrt())
        saddle = {"0.weight": root @ right, "1.weight": left @ root}
        moved = quotient.random_transform(saddle, g, scale=0.3)
        case = Trained(model, batch, quotient, moved, squared)
        seen = probe(reduced_loss(case, quotient.canonicalize(moved)), None, torch.Generator().manual_seed(0))
        assert seen.lambda_min == pytest.approx(-float(values[learned]), rel=1e-2)
        # and through everything in between, from the snapshot on
        tags = engine.process(Snapshot(learned, moved, 0.1 * learned, 0.1, 0.1, 1.0), True).values
        assert tags["shock/lambda_min"] == pytest.approx(-float(values[learned]), rel=1e-2)
