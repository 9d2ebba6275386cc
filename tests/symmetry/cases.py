"""The models all symmetry tests run on: each with a loss, a batch and what is known of its symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.symmetry.streams import Llama, Rotary, Stack, Vision


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
        self.head = nn.Linear(8, 10)

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


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 7).requires_grad_(False)
        self.a, self.b = nn.Linear(8, 2, bias=False), nn.Linear(2, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.b(self.a(x))


class Tied(nn.Module):
    """Token and position embeddings, causal attention, tied output: GPT-2 in small."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(17, 8), nn.Embedding(6, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 17, bias=False)
        self.head.weight = self.token.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.position(torch.arange(x.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.norm(self.layer(h, src_mask=mask, is_causal=True))).flatten(0, 1)


def odd() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))


def weight_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 5)), nn.ReLU(),
        parametrizations.weight_norm(nn.Linear(5, 7)), nn.GELU(), nn.Linear(7, 4),
    )  # fmt: skip


def spectral_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 5)), nn.GELU(),
        parametrizations.spectral_norm(nn.Linear(5, 7, bias=False)), nn.GELU(), nn.Linear(7, 4),
    )  # fmt: skip


def instance_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.InstanceNorm2d(5, affine=True),
        nn.GELU(), nn.Flatten(), nn.Linear(80, 4),
    )  # fmt: skip


def normed_stream() -> nn.Module:
    """Everything that writes what a root-mean-square norm reads, in one factor."""
    return nn.Sequential(
        nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 7), nn.RMSNorm(7, eps=1e-5, elementwise_affine=False), nn.GELU(),
        nn.Linear(7, 8),
    )  # fmt: skip


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def sines() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), Sine(), nn.Linear(5, 7), Sine(), nn.Linear(7, 4))


class NormalisedQueries(nn.Module):
    """Queries and keys of unit length, or divided by their root mean square with a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 6, bias=False) for _ in range(3))
        self.q_norm = nn.RMSNorm(3, eps=1e-5)
        self.o, self.head = nn.Linear(6, 8, bias=False), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, 2, 3).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(self.q_norm(q), F.normalize(k, dim=-1), v, is_causal=True)
        return self.head(torch.tanh(self.o(mixed.transpose(1, 2).reshape(b, t, 6)))).flatten(0, 1)


class Experts(nn.Module):
    """Four gated experts behind a softmax, all of them or the best ``k``."""

    def __init__(self, k: int = 0) -> None:
        super().__init__()
        self.k, self.router, self.head = k, nn.Linear(6, 4, bias=False), nn.Linear(7, 8)
        self.first = nn.Parameter(torch.randn(4, 6, 3) / 2)
        self.second = nn.Parameter(torch.randn(4, 3, 7) / 2)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.router(x).softmax(-1)
        if self.k:
            values, indices = gate.topk(self.k, -1)
            gate = torch.zeros_like(gate).scatter(-1, indices, values)
        hidden = F.relu(torch.einsum("nd,edh->neh", x, self.first))
        return self.head(torch.tanh(torch.einsum("ne,neh,eho->no", gate, hidden, self.second)))


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 3), nn.Linear(3, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class ListedExperts(nn.Module):
    """Four experts in a list behind a softmax over all of them, or over the best ``k``."""

    def __init__(self, k: int = 0) -> None:
        super().__init__()
        self.k, self.router, self.head = k, nn.Linear(6, 4), nn.Linear(7, 8)
        self.experts = nn.ModuleList(Expert() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        gate = scores.softmax(-1)
        if self.k:
            values, indices = scores.topk(self.k, -1)
            gate = torch.zeros_like(scores).scatter(-1, indices, values.softmax(-1))
        mixed = sum(
            (gate[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts)), torch.zeros(())
        )
        return self.head(torch.tanh(mixed))


class Head(nn.Module):
    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 2) for _ in range(3))
        self.o = nn.Linear(2, 8, bias=False) if writes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=True))


class ListedHeads(nn.Module):
    """Three heads in a list, side by side before one output map, or each with its own and summed."""

    def __init__(self, summed: bool) -> None:
        super().__init__()
        self.summed, self.heads = summed, nn.ModuleList(Head(summed) for _ in range(3))
        self.o = nn.Identity() if summed else nn.Linear(6, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [head(x) for head in self.heads]
        mixed = torch.stack(outputs).sum(0) if self.summed else self.o(torch.cat(outputs, -1))
        return self.head(torch.tanh(mixed)).flatten(0, 1)


class Twice(nn.Module):
    """One map used twice around a rectifier: its units cannot scale; one before it can."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.map, self.out = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.map(F.relu(self.map(F.relu(self.inp(x)))))))


def grouped_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2),
        nn.GroupNorm(2, 4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4),
    )  # fmt: skip


def words(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 17, (12, 6), generator=g), torch.randint(0, 17, (72,), generator=g)


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


def wide(seed: int) -> tuple[Tensor, Tensor]:
    return vectors(seed, 6, 8)


def images(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 8, 8, generator=g), torch.randint(0, 4, (16,), generator=g)


def tokens(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, 8, generator=g), torch.randint(0, 3, (32,), generator=g)


def many_classes(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, 8, generator=g), torch.randint(0, 10, (32,), generator=g)


def patches(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(12, 3, 8, generator=g), torch.randint(0, 8, (12,), generator=g)


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
        return x.to(dtype) if x.is_floating_point() else x, y.to(dtype) if y.is_floating_point() else y


# 1 + 8: logit shift of the head; 6: key bias; 6: value against output bias (theory.md 1)
ATTENTION = {"general linear": 36, "translation": 9 + 6 + 6}
NO_BIAS = {"general linear": 36, "translation": 9}

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
    Case("attention", lambda: Attention("split"), cross_entropy, tokens, ATTENTION),
    Case("packed attention", lambda: Attention("packed"), cross_entropy, tokens, ATTENTION),
    Case("written attention", lambda: Attention("written", bias=False), cross_entropy, tokens, NO_BIAS),
    Case("multi-head", MultiHead, cross_entropy, tokens, {"general linear": 64, "translation": 9 + 8 + 8}),
    # The stream is linear: 64 GL, and both biases that write it move into the next reader.
    Case(
        "residual",
        Residual,
        cross_entropy,
        lambda seed: vectors(seed, 9, 3),
        {"general linear": 64, "positive scaling": 6, "translation": 9 + 8 + 8},
    ),
    Case("linear", linear, squared_error, targets, {"general linear": 36}),
    Case(
        "pre-norm encoder",
        lambda: Encoder(True),
        cross_entropy,
        many_classes,
        # gains 8 + 8; logits 9; key, value, two norms' biases, last bias of the stream 8 each; readers 24 + 12; the
        # first bias of the stream along ones, which the second norm does not see
        {"general linear": 64, "real scaling": 16, "positive scaling": 12, "translation": 9 + 5 * 8 + 36 + 1},
    ),
    Case(
        "post-norm encoder",
        lambda: Encoder(False),
        cross_entropy,
        many_classes,
        # centring writers 9 + 13; logits 9; key, value, two norms' biases 8 each; readers 12 + 9 (one is a logit shift)
        {
            "general linear": 64,
            "real scaling": 8,
            "positive scaling": 12,
            # everything that writes the second norm
            "scale invariance": 1,
            "translation": 22 + 9 + 4 * 8 + 12 + 9,
        },
    ),
    # Signs are finite: they take no dimension.
    Case("odd", odd, cross_entropy, vectors, {"translation": 8}),
    # Two heads of two pairs: 2 x 4 real dimensions of GL(1, C); values and outputs GL(4) each.
    Case(
        "rotary",
        lambda: Rotary(False),
        cross_entropy,
        many_classes,
        {"complex scaling": 8, "general linear": 32, "translation": 9},
    ),
    Case(
        "interleaved rotary",
        lambda: Rotary(True),
        cross_entropy,
        many_classes,
        {"complex scaling": 8, "general linear": 32, "translation": 9},
    ),
    Case(
        "shared keys",
        lambda: Rotary(False, 1),
        cross_entropy,
        many_classes,
        {"complex scaling": 4, "general linear": 16, "translation": 9},
    ),
    Case("low rank", LowRank, squared_error, targets, {"general linear": 4}),
    # The bias before a group norm shifts alike for all channels of a group.
    Case(
        "grouped cnn",
        grouped_cnn,
        cross_entropy,
        images,
        {"positive scaling": 6 + 6 + 4 + 3, "scale invariance": 2, "translation": 1 + 27 + 2},
    ),
    # Readers of two norms 24 + 12; writers of the stream 9 + 13 + 6; key, value, two norms' biases 8 each; tokens
    # against positions 8. One factor for the whole stream, taken back by the last norm's gain and bias.
    Case(
        "tied",
        Tied,
        cross_entropy,
        words,
        {"general linear": 64, "real scaling": 16, "positive scaling": 1, "translation": 36 + 28 + 32 + 8},
    ),
    # Lengths 5 + 7; logits 8. Of the 5 rectified units only the common factor: singly, lengths would have to follow.
    Case(
        "weight norm",
        weight_norm,
        cross_entropy,
        vectors,
        {"scale invariance": 12, "positive scaling": 1, "translation": 8},
    ),
    Case("spectral norm", spectral_norm, cross_entropy, vectors, {"scale invariance": 2, "translation": 8}),
    # The biases before the norms 4 + 5, logits 1 + 80.
    Case("instance norm", instance_norm, cross_entropy, images, {"scale invariance": 9, "translation": 90}),
    Case("normed stream", normed_stream, cross_entropy, wide, {"scale invariance": 1, "translation": 8}),
    Case("sines", sines, cross_entropy, vectors, {"translation": 8}),
    # Each head's query and key; values with outputs 2 x 9; logits 9.
    Case(
        "normalised queries",
        NormalisedQueries,
        cross_entropy,
        many_classes,
        {"general linear": 18, "scale invariance": 4, "translation": 9},
    ),
    # 4 experts of 3 units; router 6, logits 8.
    Case("experts", Experts, cross_entropy, wide, {"positive scaling": 12, "translation": 14}),
    Case(
        "best experts", lambda: Experts(2), cross_entropy, wide, {"positive scaling": 12, "translation": 14}
    ),
    # 4 experts of 3 units; router 6 + 1, logits 8.
    Case(
        "listed experts", ListedExperts, cross_entropy, wide, {"positive scaling": 12, "translation": 7 + 8}
    ),
    Case(
        "best listed experts",
        lambda: ListedExperts(2),
        cross_entropy,
        wide,
        {"positive scaling": 12, "translation": 7 + 8},
    ),
    # 3 heads of two: queries with keys, values with outputs; key bias 6, logits 9; value against output bias 6, where
    # there is one.
    Case(
        "listed heads",
        lambda: ListedHeads(False),
        cross_entropy,
        many_classes,
        {"general linear": 24, "translation": 6 + 9 + 6},
    ),
    Case(
        "summed heads",
        lambda: ListedHeads(True),
        cross_entropy,
        many_classes,
        {"general linear": 24, "translation": 6 + 9},
    ),
    Case("used twice", Twice, cross_entropy, wide, {"translation": 6}),
    # Stream of 8 under RMS norms: 8 * 7 / 2. Gains 3 * 8, units 10; the size of the stream, here and below 1.
    Case(
        "llama",
        Llama,
        cross_entropy,
        words,
        {
            "rotation": 28,
            "general linear": 16,
            "complex scaling": 4,
            "real scaling": 24 + 10,
            "scale invariance": 1,
            "translation": 8,
        },
    ),
    # Stream of 6 about the ones: 5 * 4 / 2. Writers: token 1, positions 4, patches 9, two layers 7 + 8 each; key
    # biases 2 * 6; logits 7; readers 2 * (18 + 7) + 7; token against positions against patches 5 each (the ones are
    # removed already); values and two norms 6 each in two layers, the last norm 6.
    Case(
        "vision",
        Vision,
        cross_entropy,
        patches,
        {
            "rotation": 10,
            "general linear": 2 * 36,
            "real scaling": 30,
            "scale invariance": 1,
            "translation": 14 + 30 + 12 + 7 + 57 + 10 + 36 + 6,
        },
    ),
    # Writers 10 + 11 + 11; logits 9; readers 10 + 10 + 9; three norms' biases.
    Case(
        "stack",
        Stack,
        cross_entropy,
        lambda seed: vectors(seed, 9, 10),
        {"rotation": 21, "real scaling": 24, "scale invariance": 1, "translation": 32 + 9 + 29 + 24},
    ),
]

BY_NAME = {case.name: case for case in CASES}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in (*model.named_parameters(), *model.named_buffers())}
