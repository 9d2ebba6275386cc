"""``P H P`` against the Riemannian Hessian of the reduced loss: second differences along geodesics (theory.md 3).

Nothing here uses the package's groups or projectors, nor that the gradient is horizontal: generators, constraints
and geodesics are written out by hand. The quotient is ``M / K`` with ``M`` the canonical slice, a surface in the flat
space of parameters, and ``K`` the isometries left on it; a geodesic of the quotient is one of ``M`` that starts
orthogonal to the orbits of ``K``. On the sphere that is a great circle. On the balanced slice ``c(theta) = 0`` it is
the path that nothing but the constraint bends: ``theta'' = -A^+ c''[theta', theta']`` with ``A = dc``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import hessian, jacrev

from shockwatch.symmetry import infer_symmetries
from tests.symmetry.cases import squared_error

DOUBLE = torch.float64
STEP = 3e-3

Path = Callable[[Tensor, float], Tensor]


def null_space(rows: Tensor) -> Tensor:
    """Orthonormal columns orthogonal to every row."""
    _, sizes, right = torch.linalg.svd(rows)
    return right[int((sizes > 1e-9 * sizes[0]).sum()) :].T


def riemannian_hessian(loss: Callable[[Tensor], float], path: Path, basis: Tensor) -> Tensor:
    """By polarisation from fourth-order second differences along ``path(velocity, t)``."""
    here = loss(path(torch.zeros(len(basis), dtype=DOUBLE), 0.0))

    def second(velocity: Tensor) -> float:
        near, far = (loss(path(velocity, t)) + loss(path(velocity, -t)) - 2 * here for t in (STEP, 2 * STEP))
        return (16 * near - far) / (12 * STEP**2)

    count = basis.shape[1]
    matrix = torch.zeros(count, count, dtype=DOUBLE)
    for i in range(count):
        matrix[i, i] = second(basis[:, i])
    for i in range(count):
        for j in range(i):
            both = second((basis[:, i] + basis[:, j]) / math.sqrt(2))
            matrix[i, j] = matrix[j, i] = both - 0.5 * (matrix[i, i] + matrix[j, j])
    return matrix


def constrained(constraint: Callable[[Tensor], Tensor], start: Tensor) -> Path:
    """Geodesics of ``constraint = 0`` from ``start``, by Runge-Kutta."""
    first, curved = jacrev(constraint), hessian(constraint)

    def force(theta: Tensor, velocity: Tensor) -> Tensor:
        bend = torch.einsum("kij,i,j->k", curved(theta), velocity, velocity)
        return -torch.linalg.pinv(first(theta), rtol=1e-10) @ bend

    def path(velocity: Tensor, time: float) -> Tensor:
        x, v, h = start, velocity, time / 2
        for _ in range(2):
            k1 = force(x, v)
            k2 = force(x + h / 2 * v, v + h / 2 * k1)
            k3 = force(x + h / 2 * v + h**2 / 4 * k1, v + h / 2 * k2)
            k4 = force(x + h * v + h**2 / 2 * k2, v + h * k3)
            x, v = x + h * v + h**2 / 6 * (k1 + k2 + k3), v + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x

    return path


def canonical(model: nn.Module, batch: tuple[Tensor, Tensor]):
    """Canonical point as one vector, the eigenvalues of ``P H P``, the loss as a function of such a vector."""
    quotient = infer_symmetries(model, squared_error, batch)
    state = {n: p.detach() for n, p in model.named_parameters()}
    point = quotient.canonicalize(
        quotient.random_transform(state, torch.Generator().manual_seed(4), scale=0.5)
    )
    assert list(point) == list(state)
    operator = quotient.hessian(model, squared_error, batch, point)
    dense = torch.from_numpy(operator.matmat(torch.eye(operator.shape[0], dtype=DOUBLE).numpy()))
    start = torch.cat([p.reshape(-1) for p in point.values()])

    def loss(theta: Tensor) -> float:
        parts = torch.split(theta, [p.numel() for p in state.values()])
        swapped = {n: t.reshape(state[n].shape) for n, t in zip(state, parts, strict=True)}
        with torch.no_grad():
            outputs = torch.func.functional_call(model, swapped, (batch[0],))
            return float((outputs - batch[1]).square().mean())

    return quotient, start, dense, loss


def compare(dense: Tensor, basis: Tensor, path: Path, loss: Callable[[Tensor], float]) -> None:
    """Equal eigenvalues to 1e-4, the smallest included, on paths that do bend."""
    start = path(torch.zeros(len(basis), dtype=DOUBLE), 0.0)
    bend = (path(basis[:, 0], STEP) + path(basis[:, 0], -STEP) - 2 * start) / STEP**2
    assert float(bend.norm()) > 0.01
    ours = torch.linalg.eigvalsh(basis.T @ dense @ basis)
    # P H P has nothing outside the horizontal space
    assert float((dense - basis @ basis.T @ dense @ basis @ basis.T).abs().max()) < 1e-9
    theirs = torch.linalg.eigvalsh(riemannian_hessian(loss, path, basis))
    assert float(ours[0]) < -1e-3  # away from a minimum, where every Hessian is the same
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))


def data(inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(20, n, generator=g, dtype=DOUBLE) for n in (inputs, outputs))


def test_balanced_general_linear() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)).double()
    quotient, start, dense, loss = canonical(model, data(4, 3))
    assert {g.kind for g in quotient.groups} == {"general linear"}

    def balance(theta: Tensor) -> Tensor:
        first, second = theta[:8].reshape(2, 4), theta[8:].reshape(3, 2)
        return (first @ first.T - second.T @ second)[tuple(torch.triu_indices(2, 2))]

    first, second = start[:8].reshape(2, 4), start[8:].reshape(3, 2)
    assert float(balance(start).abs().max()) < 1e-10
    generators = []
    for index in range(4):
        turn = torch.eye(4, dtype=DOUBLE)[index].reshape(2, 2)
        generators.append(torch.cat([(turn @ first).reshape(-1), (-second @ turn).reshape(-1)]))
    compare(dense, null_space(torch.stack(generators)), constrained(balance, start), loss)


class Attention(nn.Module):
    """One head of two on a width of three, without values: ``softmax(Q K^T) x``, summed over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), 4, 3)
        scores = self.q(x) @ self.k(x).transpose(-1, -2)
        return (scores.softmax(-1) @ x).square().sum(1)


def test_balanced_queries_and_keys() -> None:
    torch.manual_seed(2)
    model = Attention().double()
    quotient, start, dense, loss = canonical(model, data(12, 3))
    assert {g.kind for g in quotient.groups} == {"general linear"}

    def balance(theta: Tensor) -> Tensor:
        q, k = theta[:6].reshape(2, 3), theta[6:].reshape(2, 3)
        return (q @ q.T - k @ k.T)[tuple(torch.triu_indices(2, 2))]

    q, k = start[:6].reshape(2, 3), start[6:].reshape(2, 3)
    assert float(balance(start).abs().max()) < 1e-10
    turns = [torch.eye(4, dtype=DOUBLE)[i].reshape(2, 2) for i in range(4)]
    generators = [torch.cat([(t @ q).reshape(-1), (-t.T @ k).reshape(-1)]) for t in turns]
    compare(dense, null_space(torch.stack(generators)), constrained(balance, start), loss)


def test_spheres_of_scale_invariance() -> None:
    torch.manual_seed(3)
    norm = nn.BatchNorm1d(3, eps=1e-14, affine=False, track_running_stats=False)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), norm, nn.Tanh(), nn.Linear(3, 2, bias=False)).double()
    quotient, start, dense, loss = canonical(model, data(4, 2))
    assert {g.kind for g in quotient.groups if g.dim} == {"scale invariance"}
    units = start[:12].reshape(3, 4)
    radius = units.norm(dim=1, keepdim=True)

    def great_circles(velocity: Tensor, time: float) -> Tensor:
        speed = velocity[:12].reshape(3, 4)
        size = speed.norm(dim=1, keepdim=True)
        angle = size * time / radius
        moved = units * angle.cos() + radius * speed / size.clamp_min(1e-300) * angle.sin()
        return torch.cat([moved.reshape(-1), start[12:] + time * velocity[12:]])

    outward = torch.zeros(3, 18, dtype=DOUBLE)
    for index in range(3):
        outward[index, 4 * index : 4 * index + 4] = units[index]
    compare(dense, null_space(outward), great_circles, loss)
