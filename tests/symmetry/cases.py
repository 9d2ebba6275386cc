"""The models all symmetry tests run on: each with a loss, a batch and what is known of its symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


class SwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class PackedSwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(6, 10), nn.Linear(5, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Attention(nn.Module):
    """Two heads of three on a width of eight, tanh, then a classifier: theory.md counts its directions."""

    def __init__(self, style: str, bias: bool = True) -> None:
        super().__init__()
        self.style = style
        if style == "packed":
            self.qkv = nn.Linear(8, 18, bias=bias)
        else:
            self.q, self.k, self.v = (nn.Linear(8, 6, bias=bias) for _ in range(3))
        self.o = nn.Linear(6, 8, bias=bias)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        if self.style == "packed":
            q, k, v = self.qkv(x).split(6, -1)
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        q, k, v = (z.view(b, t, 2, 3).transpose(1, 2) for z in (q, k, v))
        if self.style == "written":
            mask = torch.ones(t, t, dtype=torch.bool).tril()
            scores = (q @ k.transpose(-1, -2)) / math.sqrt(3)
            mixed = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.style == "split")
        mixed = self.o(mixed.transpose(1, 2).reshape(b, t, 6))
        return self.head(torch.tanh(mixed)).flatten(0, 1)


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mha(x, x, x, need_weights=False)[0])).flatten(0, 1)


class Encoder(nn.Module):
    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, 0.1, batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)).flatten(0, 1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.a, self.b, self.out = (
            nn.Linear(9, 8),
            nn.Linear(8, 6),
            nn.Linear(6, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        return self.out(h + self.b(F.relu(self.a(h))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))


def leaky() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.LeakyReLU(), nn.Linear(9, 7), nn.PReLU(7), nn.Linear(7, 4))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(20, 4),
    )  # fmt: skip


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6, bias=False), nn.Linear(6, 7, bias=False))


def vectors(seed: int, width: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(24, width, generator=g), torch.randint(0, classes, (24,), generator=g)


def images(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 8, 8, generator=g), torch.randint(0, 4, (16,), generator=g)


def tokens(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, 8, generator=g), torch.randint(0, 3, (32,), generator=g)


def targets(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(24, 8, generator=g), torch.randn(24, 7, generator=g)


@dataclass(frozen=True)
class Case:
    """``dims``: continuous directions by kind, counted by hand."""

    name: str
    build: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Tensor]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    dims: dict[str, int]

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = self.build().to(dtype)
            for parameter in model.parameters():
                # Biases and gains away from their symmetric start, so that nothing holds by accident.
                parameter.data += 0.1 * torch.randn_like(parameter)
        return model

    def data(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        x, y = self.batch(seed)
        return x.to(dtype), y.to(dtype) if y.is_floating_point() else y


ATTENTION = {"general linear": 36, "translation": 1 + 8}

CASES = [
    Case("mlp", mlp, cross_entropy, vectors, {"positive scaling": 16, "translation": 8}),
    Case("leaky", leaky, cross_entropy, vectors, {"positive scaling": 16, "translation": 8}),
    Case(
        "cnn",
        cnn,
        cross_entropy,
        images,
        {"scale invariance": 4, "positive scaling": 9, "translation": 4 + 1 + 20},
    ),
    Case("swiglu", SwiGLU, cross_entropy, vectors, {"real scaling": 5, "translation": 5}),
    Case("packed swiglu", PackedSwiGLU, cross_entropy, vectors, {"real scaling": 5, "translation": 5}),
    Case(
        "attention",
        lambda: Attention("split"),
        cross_entropy,
        tokens,
        {"general linear": 36, "translation": 9 + 6},
    ),
    Case("packed attention", lambda: Attention("packed"), cross_entropy, tokens, ATTENTION),
    Case("written attention", lambda: Attention("written", bias=False), cross_entropy, tokens, ATTENTION),
    Case("multi-head", MultiHead, cross_entropy, tokens, {"general linear": 64, "translation": 9}),
    Case(
        "residual",
        Residual,
        cross_entropy,
        lambda s: vectors(s, 9, 3),
        {"general linear": 64, "positive scaling": 6, "translation": 9},
    ),
    Case("linear", linear, squared_error, targets, {"general linear": 36}),
    Case(
        "pre-norm encoder",
        lambda: Encoder(True),
        cross_entropy,
        tokens,
        {"general linear": 64, "positive scaling": 12, "translation": 9},
    ),
    Case(
        "post-norm encoder",
        lambda: Encoder(False),
        cross_entropy,
        tokens,
        {"general linear": 64, "positive scaling": 12, "translation": 1 + 8 + 1 + 12 + 9},
    ),
]

BY_NAME = {case.name: case for case in CASES}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in (*model.named_parameters(), *model.named_buffers())}
