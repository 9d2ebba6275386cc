"""Adam's operator against dense algebra, and its edge against Adam itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shockwatch.curvature import adam_rates, adam_stability, preconditioned

DOUBLE = torch.float64


class Quadratic(nn.Module):
    """``x^T H x / 2``."""

    def __init__(self, hessian: Tensor, start: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start.clone())
        self.register_buffer("hessian", hessian)


def quadratic(model: nn.Module, batch: Tensor) -> Tensor:
    return batch * 0.5 * (model.x @ model.hessian @ model.x)


ONE = torch.ones((), dtype=DOUBLE)


def hessian(size: int = 12) -> Tensor:
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=DOUBLE)).Q
    return basis @ torch.diag(torch.logspace(-1, 1, size, dtype=DOUBLE)) @ basis.T


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        quadratic(model, ONE).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"amsgrad": True, "betas": (0.8, 0.95), "eps": 1e-2}),
        (torch.optim.Adam, {"weight_decay": 0.7}),
        (torch.optim.AdamW, {"weight_decay": 0.7}),
    ],
    ids=str,
)
def test_the_eigenvalue_is_that_of_dense_algebra(kind, options):
    """``2 lambda_max(D^-1 H) / edge`` with ``D`` and the edge as the paper writes them."""
    matrix = hessian()
    model = Quadratic(matrix, torch.linspace(1, 2, 12, dtype=DOUBLE))
    optimizer = kind(model.parameters(), lr=1e-2, **options)
    steps(model, optimizer, 7)
    first, second = optimizer.param_groups[0]["betas"]
    state = optimizer.state[model.x]
    squares = state["max_exp_avg_sq"] if "amsgrad" in options else state["exp_avg_sq"]
    scale = (1 - first**7) * ((squares / (1 - second**7)).sqrt() + optimizer.param_groups[0]["eps"])
    whole = matrix + (0.7 if kind is torch.optim.Adam and "weight_decay" in options else 0.0) * torch.eye(12)
    largest = float(torch.linalg.eigvals(torch.diag(1 / scale) @ whole).real.max())
    edge = (2 + 2 * first) / ((1 - first) * 1e-2)
    assert adam_stability(model, quadratic, ONE, optimizer, tolerance=1e-9) == pytest.approx(
        2 * largest / edge, rel=1e-8
    )
    rates = adam_rates(optimizer, [model.x])
    operator = preconditioned(lambda v: matrix @ v, rates)
    dense = torch.stack([operator(e) for e in torch.eye(12, dtype=DOUBLE)])
    assert torch.allclose(dense, dense.T, atol=1e-14)
    assert torch.allclose(dense, rates.sqrt()[:, None] * matrix * rates.sqrt(), atol=1e-14)


@pytest.mark.parametrize("first", [0.9, 0.5, 0.0])
def test_torchs_adam_diverges_just_above_two_and_converges_just_below(first):
    """``v`` all but frozen (``1 - beta_2 = 1e-14``) and far from one, late in a run."""
    matrix = hessian()
    for target, grows in ((1.96, False), (2.04, True)):
        model = Quadratic(matrix, torch.full((12,), 1e-6, dtype=DOUBLE))
        optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(first, 1 - 1e-14))
        steps(model, optimizer, 1)
        state = optimizer.state[model.x]
        state["step"].fill_(1e6)
        wanted = torch.logspace(-1, 0, 12, dtype=DOUBLE)  # v_hat
        state["exp_avg_sq"].copy_(wanted * (1 - (1 - 1e-14) ** 1e6))
        state["exp_avg"].zero_()
        model.x.data.fill_(1e-6)
        optimizer.param_groups[0]["lr"] *= target / adam_stability(
            model, quadratic, ONE, optimizer, tolerance=1e-9
        )
        largest = 0.0
        for _ in range(150):
            steps(model, optimizer, 10)
            size = float(model.x.detach().norm())
            largest = max(largest, size)
        # once the gradient is large even this ``v`` grows, and the step shrinks for good
        assert largest > 1.0 if grows else size < 1e-6


def test_adam_left_alone_settles_at_the_edge():
    """Full-batch Adam on a quadratic: ``v`` shrinks until the edge is met, and hovers there (Cohen et al. 2022)."""
    model = Quadratic(hessian(), torch.ones(12, dtype=DOUBLE))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99), eps=1e-12)
    steps(model, optimizer, 200)
    assert adam_stability(model, quadratic, ONE, optimizer) < 0.5
    steps(model, optimizer, 6000)
    seen = []
    for _ in range(20):
        steps(model, optimizer, 50)
        seen.append(adam_stability(model, quadratic, ONE, optimizer))
    assert sum(seen) / len(seen) == pytest.approx(2.0, rel=0.15)


def test_what_has_no_such_edge_is_refused():
    model = Quadratic(hessian(), torch.ones(12, dtype=DOUBLE))
    with pytest.raises(ValueError, match="optimizer=SGD"):
        adam_rates(torch.optim.SGD(model.parameters(), lr=0.1), [model.x])
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match="taken a step"):
        adam_rates(optimizer, [model.x])
    with pytest.raises(ValueError, match=r"parameters\[1\]"):
        adam_rates(optimizer, [model.x, torch.ones(3)])
    with pytest.raises(ValueError, match="rates"):
        preconditioned(lambda v: v, -torch.ones(3))
    optimizer.param_groups[0]["maximize"] = True
    with pytest.raises(ValueError, match="maximize"):
        adam_rates(optimizer, [model.x])
