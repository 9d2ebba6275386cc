"""The edge of Adam from a snapshot's copies: against dense algebra, ``adam_stability`` and Adam itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shockwatch.capture import named_state
from shockwatch.curvature import AdaptedLoss, adam_rates, adam_stability
from shockwatch.moments import adam_moments
from shockwatch.tracing import StepLoss, trace_step

DOUBLE = torch.float64
KINDS = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"amsgrad": True, "betas": (0.8, 0.95), "eps": 1e-4}),
    (torch.optim.Adam, {"weight_decay": 0.3}),
    (torch.optim.AdamW, {"weight_decay": 0.3}),
]


def net() -> nn.Module:
    g = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=g, dtype=DOUBLE))
    return model


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


_RANDOM = torch.Generator().manual_seed(4)
DATA = (
    torch.randn(40, 5, generator=_RANDOM, dtype=DOUBLE),
    torch.randint(0, 3, (40,), generator=_RANDOM),
)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        loss_fn(model, DATA).backward()
        optimizer.step()


def adapted(model: nn.Module, optimizer: torch.optim.Optimizer) -> AdaptedLoss:
    moments = adam_moments(named_state(model), [optimizer])
    assert moments is not None
    state = {n: t.detach() for n, t in named_state(model).items()}
    return AdaptedLoss(StepLoss(trace_step(model, loss_fn, DATA), DATA), state, {}, moments)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_the_edge_is_that_of_dense_algebra_and_of_the_optimiser(kind, options):
    model = net()
    optimizer = kind(model.parameters(), lr=1e-2, **options)
    train(model, optimizer, 12)
    here = adapted(model, optimizer)
    parameters = list(model.parameters())
    assert torch.allclose(here.rates, adam_rates(optimizer, parameters), rtol=1e-12)
    dense = torch.stack([here.hessian(e) for e in torch.eye(here.rates.numel(), dtype=DOUBLE)])
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in parameters]

    def flat(vector: Tensor) -> Tensor:
        parts = [v.reshape(p.shape) for v, p in zip(vector.split(sizes), parameters, strict=True)]
        out = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (DATA[0],))
        decay = options.get("weight_decay", 0.0) if kind is torch.optim.Adam else 0.0
        return nn.functional.cross_entropy(out, DATA[1]) + 0.5 * decay * vector.square().sum()

    point = torch.cat([p.detach().reshape(-1) for p in parameters])
    assert torch.allclose(dense, torch.func.hessian(flat)(point), atol=1e-12)
    exact = float(torch.linalg.eigvals(here.rates[:, None] * dense).real.max())
    value, _, _ = here.sharpness(None, torch.Generator().manual_seed(0), 1e-9, most_products=67)
    assert value == pytest.approx(exact, rel=1e-7)
    assert value == pytest.approx(adam_stability(model, loss_fn, DATA, optimizer, tolerance=1e-9), rel=1e-7)


def test_a_warm_start_takes_few_products_and_stays_within_tolerance():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(model, optimizer, 5)
    warm, generator, spent = None, torch.Generator().manual_seed(0), []
    for _ in range(12):
        train(model, optimizer, 10)
        value, warm, products = adapted(model, optimizer).sharpness(warm, generator)
        assert value == pytest.approx(adam_stability(model, loss_fn, DATA, optimizer), rel=1e-2)
        spent.append(products)
    assert sum(spent[1:]) / len(spent[1:]) <= 10


def test_a_parameter_without_a_state_does_not_move():
    model = net()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    train(model, optimizer, 3)
    moments = adam_moments(named_state(model), [optimizer])
    assert moments is not None
    assert list(moments) == ["0.bias", "2.weight", "2.bias"]
    model[0].weight.requires_grad_(True)  # traced as one that trains
    here = adapted(model, optimizer)
    assert float(here.rates[: model[0].weight.numel()].abs().max()) == 0.0
    dense = torch.stack([here.hessian(e) for e in torch.eye(here.rates.numel(), dtype=DOUBLE)])
    exact = float(torch.linalg.eigvals(here.rates[:, None] * dense).real.max())
    assert here.sharpness(None, torch.Generator(), 1e-9, most_products=67)[0] == pytest.approx(
        exact, rel=1e-7
    )


def test_full_batch_adam_is_seen_at_its_edge():
    """Cohen et al. 2022: the preconditioned sharpness rises to ``38 / lr`` and stays; here that reads 2."""
    model = net()
    x, _ = DATA
    target = torch.randn(40, 3, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)

    def fit(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2, betas=(0.9, 0.99), eps=1e-10)
    loss = StepLoss(trace_step(model, fit, (x, target)), (x, target))
    warm, generator, seen = None, torch.Generator().manual_seed(0), []
    for step in range(4000):
        optimizer.zero_grad()
        fit(model, (x, target)).backward()
        optimizer.step()
        if step >= 3000 and step % 50 == 0:
            moments = adam_moments(named_state(model), [optimizer])
            assert moments is not None
            state = {n: t.detach() for n, t in named_state(model).items()}
            value, warm, _ = AdaptedLoss(loss, state, {}, moments).sharpness(warm, generator)
            seen.append(value)
    assert sum(seen) / len(seen) == pytest.approx(2.0, rel=0.15)
