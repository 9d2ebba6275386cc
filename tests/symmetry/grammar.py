"""A grammar of small networks: every production draws its choices from one random source.

``architecture(random)`` is a pure function of the source: a seed names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

BATCH = 6


@dataclass(frozen=True)
class Architecture:
    """A network with its loss; ``batch(seed)`` draws another batch of the same shapes."""

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    batch: Callable[[int], tuple[Tensor, Tensor]]


# -- pieces without parameters, and norms ----------------------------------------------------------


class Apply(nn.Module):
    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


class RootMeanSquare(nn.Module):
    """Written out, as most models on the hub have it."""

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__()
        self.eps = 1e-6
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return x if self.weight is None else self.weight * x


class ChannelNorm(nn.Module):
    """Layer norm over the channels of an image, as ConvNeXt has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def activation(random: Random, width: int) -> nn.Module:
    return random.choice(
        [
            nn.ReLU, lambda: nn.LeakyReLU(0.2), nn.PReLU, lambda: nn.PReLU(width), nn.Tanh, nn.GELU, nn.SiLU,
            nn.Sigmoid,
            lambda: nn.GELU("tanh"), lambda: Apply("sin", torch.sin), lambda: Apply("square", torch.square),
            nn.ReLU6, nn.Softplus, nn.ELU, nn.Identity, lambda: Apply("abs", torch.abs), lambda: nn.Dropout(0.3),
            nn.Hardswish, nn.Hardtanh, nn.Mish, nn.Softsign, nn.Tanhshrink,
        ]
    )()  # fmt: skip


def norm(random: Random, width: int) -> nn.Module:
    """A norm over the last axis."""
    affine, bias = random.choice([True, False]), random.choice([True, False])
    kind = random.choice(["layer", "rms", "written", "none"])
    if kind == "layer":
        return nn.LayerNorm(width, elementwise_affine=affine, bias=bias)
    if kind == "rms":
        return nn.RMSNorm(width, eps=1e-6, elementwise_affine=affine)
    return RootMeanSquare(width, affine) if kind == "written" else nn.Identity()


# -- linear maps ----------------------------------------------------------------------------------


class LowRank(nn.Module):
    """A base map, frozen or not, and ``B A``."""

    def __init__(self, inputs: int, outputs: int, rank: int, frozen: bool) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(not frozen)
        self.a, self.b = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.b(self.a(x))


def reparametrize(random: Random, module: nn.Module) -> nn.Module:
    kind = random.choice(["plain"] * 5 + ["weight", "old weight", "spectral"])
    if kind == "weight":
        return parametrizations.weight_norm(module)
    if kind == "old weight":
        return nn.utils.weight_norm(module)
    return parametrizations.spectral_norm(module) if kind == "spectral" else module


def linear(random: Random, inputs: int, outputs: int) -> nn.Module:
    if random.random() < 0.15:
        return LowRank(inputs, outputs, random.choice([1, 2]), random.choice([True, False]))
    return reparametrize(random, nn.Linear(inputs, outputs, bias=random.choice([True, False])))


# -- composites on (..., width) -------------------------------------------------------------------


class Plus(nn.Module):
    def __init__(self, inner: nn.Module, scale: nn.Parameter | None) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x + (y if self.scale is None else self.scale * y)


class Gated(nn.Module):
    def __init__(self, random: Random, width: int, hidden: int) -> None:
        super().__init__()
        self.packed = random.choice([True, False])
        if self.packed:
            self.both = nn.Linear(width, 2 * hidden, bias=random.choice([True, False]))
        else:
            self.gate, self.up = linear(random, width, hidden), linear(random, width, hidden)
        self.act, self.down = activation(random, 1), linear(random, hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, -1) if self.packed else (self.gate(x), self.up(x))
        return self.down(self.act(gate) * up)


class Experts(nn.Module):
    """Mixture of experts as stacked tensors: soft, or the best ``k`` by a mask on the gate."""

    def __init__(self, width: int, hidden: int, count: int, k: int, relu: bool) -> None:
        super().__init__()
        self.k, self.act = k, nn.ReLU() if relu else nn.SiLU()
        self.router = nn.Linear(width, count, bias=False)
        self.first = nn.Parameter(torch.randn(count, width, hidden) / 2)
        self.second = nn.Parameter(torch.randn(count, hidden, width) / 2)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.router(x).softmax(-1)
        if self.k:
            values, indices = gate.topk(self.k, -1)
            gate = torch.zeros_like(gate).scatter(-1, indices, values)
        hidden = self.act(torch.einsum("...d,edh->...eh", x, self.first))
        return torch.einsum("...e,...eh,ehd->...d", gate, hidden, self.second)


class ListedExperts(nn.Module):
    """Mixture of experts as a list of modules."""

    def __init__(self, random: Random, width: int, hidden: int, count: int, k: int) -> None:
        super().__init__()
        self.k, self.router = k, nn.Linear(width, count, bias=False)
        act = activation(random, 1)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), act, nn.Linear(hidden, width)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        if self.k:
            kept, indices = logits.topk(self.k, -1)
            gate = torch.zeros_like(logits).scatter(-1, indices, kept.softmax(-1))
        else:
            gate = logits.softmax(-1)
        return sum(
            (gate[..., i : i + 1] * e(x) for i, e in enumerate(self.experts)), start=torch.zeros_like(x)
        )


class Twice(nn.Module):
    """One module, used twice."""

    def __init__(self, inner: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.inner, self.act = inner, act

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.act(self.inner(x)))


class Transposed(nn.Module):
    """Encoder and decoder share one weight."""

    def __init__(self, width: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.map, self.act = nn.Linear(width, hidden), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.map(x)) @ self.map.weight


class Highway(nn.Module):
    def __init__(self, random: Random, width: int) -> None:
        super().__init__()
        self.gate, self.map, self.act = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            activation(random, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return t * self.act(self.map(x)) + (1 - t) * x


class Joined(nn.Module):
    """Two branches concatenated."""

    def __init__(self, random: Random, inputs: int, width: int) -> None:
        super().__init__()
        self.a, self.b = linear(random, inputs, width // 2), linear(random, inputs, width - width // 2)
        self.act, self.both = activation(random, 1), activation(random, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(torch.cat((self.act(self.a(x)), self.b(x)), -1))


class Scaled(nn.Module):
    """A learned gain and perhaps a shift for each feature."""

    def __init__(self, width: int, shift: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width)) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.gain
        return x if self.shift is None else x + self.shift


def hidden_map(random: Random, width: int) -> nn.Module:
    """width -> width, the inside of a residual block."""
    hidden = random.choice([3, 4, 6])
    kind = random.choice(["mlp"] * 4 + ["gated"] * 2 + ["experts", "listed", "twice", "transposed"])
    if kind == "gated":
        return Gated(random, width, hidden)
    if kind == "experts":
        return Experts(width, 3, 3, random.choice([0, 1, 2]), random.choice([True, False]))
    if kind == "listed":
        return ListedExperts(random, width, 2, 3, random.choice([0, 2]))
    if kind == "twice":
        return Twice(linear(random, width, width), activation(random, 1))
    if kind == "transposed":
        return Transposed(width, hidden, activation(random, 1))
    return nn.Sequential(linear(random, width, hidden), activation(random, 1), linear(random, hidden, width))


def residual(random: Random, width: int, inner: nn.Module) -> nn.Module:
    """``x + f(norm(x))``, ``norm(x + f(x))`` or neither, with a layer scale at times."""
    scale = nn.Parameter(torch.ones(width)) if random.random() < 0.2 else None
    place = random.choice(["before", "after", "none"])
    if place == "before":
        return Plus(nn.Sequential(norm(random, width), inner), scale)
    block = Plus(inner, scale)
    return nn.Sequential(block, norm(random, width)) if place == "after" else block


# -- vectors --------------------------------------------------------------------------------------


def vector_norm(random: Random, width: int) -> nn.Module:
    kind = random.choice(["batch", "last", "group"])
    if kind == "batch":
        return nn.BatchNorm1d(
            width, affine=random.choice([True, False]), track_running_stats=random.choice([True, False])
        )
    return (
        nn.GroupNorm(2, width, affine=random.choice([True, False]))
        if kind == "group"
        else norm(random, width)
    )


def vectors(random: Random, inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    width = inputs
    for _ in range(random.choice([1, 2, 3])):
        kind = random.choice(["linear"] * 4 + ["joined", "residual", "residual", "highway", "scaled"])
        if kind == "linear":
            following = random.choice([4, 6])
            layers.append(linear(random, width, following))
            width = following
            layers += [vector_norm(random, width)] if random.random() < 0.4 else []
            layers.append(activation(random, width))
        elif kind == "joined":
            layers.append(Joined(random, width, 6))
            width = 6
        elif kind == "residual":
            layers.append(residual(random, width, hidden_map(random, width)))
        elif kind == "highway":
            layers.append(Highway(random, width))
        else:
            layers.append(Scaled(width, random.choice([True, False])))
    return nn.Sequential(*layers, linear(random, width, outputs))


# -- images ---------------------------------------------------------------------------------------


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, random: Random, channels: int) -> None:
        super().__init__()
        self.down, self.up, self.act = nn.Linear(channels, 2), nn.Linear(2, channels), activation(random, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(self.act(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


def image_norm(random: Random, channels: int) -> nn.Module:
    affine, track = random.choice([True, False]), random.choice([True, False])
    return random.choice(
        [
            lambda: nn.BatchNorm2d(channels, affine=affine, track_running_stats=track),
            lambda: nn.GroupNorm(2, channels, affine=affine),
            lambda: nn.GroupNorm(1, channels, affine=affine),
            lambda: nn.InstanceNorm2d(channels, affine=affine, track_running_stats=track),
            lambda: ChannelNorm(channels),
        ]
    )()


def convolution(random: Random, inputs: int, outputs: int) -> nn.Module:
    kernel, bias = random.choice([1, 3]), random.choice([True, False])
    padding = kernel // 2
    kind = random.choice(["plain", "plain", "grouped", "depthwise", "transposed", "circular", "strided"])
    if kind == "depthwise":
        return nn.Sequential(
            nn.Conv2d(inputs, inputs, kernel, padding=padding, groups=inputs, bias=bias),
            reparametrize(random, nn.Conv2d(inputs, outputs, 1)),
        )
    if kind == "transposed":
        groups = 2 if inputs % 2 == 0 and outputs % 2 == 0 and random.random() < 0.4 else 1
        return nn.ConvTranspose2d(inputs, outputs, kernel, padding=padding, groups=groups, bias=bias)
    groups = 2 if kind == "grouped" and inputs % 2 == 0 and outputs % 2 == 0 else 1
    mode = random.choice(["circular", "reflect"]) if kind == "circular" else "zeros"
    stride = 2 if kind == "strided" else 1
    return reparametrize(
        random,
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias, padding_mode=mode),
    )


def images(random: Random, inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = inputs
    for _ in range(random.choice([1, 2])):
        if layers and random.random() < 0.4:
            inner = nn.Sequential(
                convolution_same(random, channels),
                activation(random, channels),
                convolution_same(random, channels),
            )
            layers.append(Plus(inner, None))
        else:
            following = random.choice([2, 4])
            layers.append(convolution(random, channels, following))
            channels = following
            layers += [image_norm(random, channels)] if random.random() < 0.5 else []
            layers.append(activation(random, channels))
        extra = random.choice(["none", "none", "max", "average", "squeeze", "dropout", "gated"])
        if extra == "max":
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        elif extra == "average":
            layers.append(nn.AvgPool2d(2, ceil_mode=True))
        elif extra == "squeeze":
            layers.append(Squeeze(random, channels))
        elif extra == "dropout":
            layers.append(nn.Dropout2d(0.2))
        elif extra == "gated":
            layers.append(Apply("weighted by its mean", lambda x: x * x.mean((2, 3), keepdim=True)))
    if random.choice([True, False]):
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(random, channels, outputs)
        )
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), linear(random, 4 * channels, outputs)
    )


def convolution_same(random: Random, channels: int) -> nn.Module:
    kernel = random.choice([1, 3])
    groups = random.choice([1, channels])
    return nn.Conv2d(
        channels, channels, kernel, padding=kernel // 2, groups=groups, bias=random.choice([True, False])
    )


# -- tokens ---------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, random: Random, width: int, heads: int, head: int) -> None:
        super().__init__()
        self.heads, self.head = heads, head
        self.kv = random.choice([heads, heads, 1])
        self.causal, bias = random.choice([True, False]), random.choice([True, False])
        self.rotary = random.choice(["none", "none", "half", "interleaved"]) if head % 2 == 0 else "none"
        self.style = random.choice(["fused", "written"])
        self.packed = self.kv == heads and random.choice([True, False])
        if self.packed:
            self.qkv = nn.Linear(width, 3 * heads * head, bias=bias)
        else:
            self.q, self.k, self.v = (
                nn.Linear(width, n * head, bias=bias) for n in (heads, self.kv, self.kv)
            )
        self.o = nn.Linear(heads * head, width, bias=random.choice([True, False]))
        normed = random.choice(["none"] * 3 + ["rms", "layer", "shared", "unit"])
        if normed == "rms":
            self.q_norm, self.k_norm = RootMeanSquare(head), nn.RMSNorm(head, eps=1e-6)
        elif normed == "layer":
            self.q_norm, self.k_norm = nn.LayerNorm(head), nn.LayerNorm(head, bias=False)
        elif normed == "shared":
            self.q_norm = self.k_norm = RootMeanSquare(head)
        elif normed == "unit":
            self.q_norm = self.k_norm = Apply("unit", lambda x: F.normalize(x, dim=-1))
        else:
            self.q_norm, self.k_norm = nn.Identity(), nn.Identity()

    def turn(self, x: Tensor) -> Tensor:
        if self.rotary == "none":
            return x
        half = self.head // 2
        speed = 1.0 / 10.0 ** torch.arange(half, dtype=x.dtype)
        angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * speed
        c, s = angle.cos(), angle.sin()
        if self.rotary == "interleaved":
            a, b = x[..., ::2], x[..., 1::2]
            return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)
        c, s = torch.cat((c, c), -1), torch.cat((s, s), -1)
        return x * c + torch.cat((-x[..., half:], x[..., :half]), -1) * s

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        parts = self.qkv(x).chunk(3, -1) if self.packed else (self.q(x), self.k(x), self.v(x))
        q, k, v = (z.view(b, t, -1, self.head).transpose(1, 2) for z in parts)
        q, k = self.turn(self.q_norm(q)), self.turn(self.k_norm(k))
        if self.kv != self.heads:
            k, v = (z.repeat_interleave(self.heads, 1) for z in (k, v))
        if self.style == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.head)
            if self.causal:
                scores = scores + torch.full((t, t), -torch.inf, dtype=x.dtype).triu(1)
            mixed = scores.softmax(-1) @ v
        return self.o(mixed.transpose(1, 2).reshape(b, t, -1))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, kv={self.kv}, rotary={self.rotary}, causal={self.causal}, {self.style}"


class ListedHeads(nn.Module):
    """Attention heads as a list of modules: side by side before one output map, or summed."""

    def __init__(self, random: Random, width: int, heads: int, head: int) -> None:
        super().__init__()
        bias, self.causal = random.choice([True, False]), random.choice([True, False])
        self.heads = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, head, bias=bias) for _ in range(3)) for _ in range(heads)
        )
        self.summed, wide = head == width, random.choice([True, False])
        self.o = nn.Identity() if self.summed else nn.Linear(heads * head, width, bias=wide)

    def forward(self, x: Tensor) -> Tensor:
        mixed = [
            F.scaled_dot_product_attention(q(x), k(x), v(x), is_causal=self.causal) for q, k, v in self.heads
        ]
        return torch.stack(mixed).sum(0) if self.summed else self.o(torch.cat(mixed, -1))


class TokenMix(nn.Module):
    """A map over the positions, as an MLP-mixer has it."""

    def __init__(self, random: Random, length: int) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(length, 3), activation(random, 1), nn.Linear(3, length)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x.transpose(1, 2)))).transpose(1, 2)


class Tokens(nn.Module):
    def __init__(self, random: Random, words: int, length: int, outputs: int) -> None:
        super().__init__()
        width = random.choice([4, 6])
        self.words = words
        self.source: nn.Module = nn.Embedding(words, width) if words else nn.Linear(5, width)
        self.position = nn.Parameter(torch.randn(length, width)) if random.random() < 0.6 else None
        self.class_token = nn.Parameter(torch.randn(width)) if random.random() < 0.3 else None
        blocks: list[nn.Module] = []
        for _ in range(random.choice([1, 1, 2])):
            kind = random.choice(["written"] * 4 + ["encoder", "mixer", "module", "listed"])
            if kind == "encoder":
                blocks.append(
                    nn.TransformerEncoderLayer(
                        width, 2, 5, 0.1, random.choice(["relu", "gelu"]), batch_first=True,
                        norm_first=random.choice([True, False]), bias=random.choice([True, False]),
                    )
                )  # fmt: skip
                continue
            count = length + (self.class_token is not None)
            if kind == "mixer":
                mix: nn.Module = TokenMix(random, count)
            elif kind == "listed":
                mix = ListedHeads(random, width, 3, random.choice([2, 3, width]))
            elif kind == "module":
                mix = Multihead(width, random.choice([True, False]))
            else:
                mix = Attention(random, width, 2, random.choice([2, 3, 4]))
            blocks.append(residual(random, width, mix))
            if random.random() < 0.5:
                blocks.append(residual(random, width, hidden_map(random, width)))
        if len(blocks) == 1 and random.random() < 0.3:
            blocks *= 2
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm(random, width)
        self.pool = random.choice(["all", "all", "first", "last", "mean"])
        tied = words and self.pool == "all" and random.choice([True, False])
        self.head = nn.Linear(width, words if tied else outputs, bias=random.choice([True, False]))
        if tied:
            self.head.weight = self.source.weight
        if self.class_token is not None and self.pool == "all":
            self.pool = "first"

    def forward(self, x: Tensor) -> Tensor:
        h = self.source(x)
        if self.position is not None:
            h = h + self.position
        if self.class_token is not None:
            h = torch.cat((self.class_token.expand(len(h), 1, -1), h), 1)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        h = {"all": h, "first": h[:, 0], "last": h[:, -1], "mean": h.mean(1)}[self.pool]
        return self.head(h)


class Multihead(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, 2, bias=bias, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


# -- the start symbol -----------------------------------------------------------------------------


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    out = model(batch[0])
    return F.cross_entropy(out.flatten(0, -2), batch[1].reshape(-1)[: out.flatten(0, -2).shape[0]])


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    out = model(batch[0])
    return F.mse_loss(out, torch.cos(batch[1].to(out.dtype).reshape(-1)[: out.numel()]).reshape(out.shape))


def sharpened(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    out = model(batch[0]).flatten(0, -2)
    return (
        F.cross_entropy(out, batch[1].reshape(-1)[: out.shape[0]], label_smoothing=0.1)
        + 1e-2 * out.square().mean()
    )


def architecture(random: Random) -> Architecture:
    """The start symbol. Weights are random float64, biases and gains away from 0 and 1."""
    family = random.choice(["vectors", "images", "tokens", "tokens"])
    outputs = random.choice([3, 7])
    loss = random.choice([cross_entropy, cross_entropy, squared_error, sharpened])
    length, words = 4, 0
    with torch.random.fork_rng():
        torch.manual_seed(random.randrange(2**31))
        if family == "vectors":
            model = vectors(random, 5, outputs)
        elif family == "images":
            model = images(random, random.choice([1, 2]), outputs)
        else:
            words = random.choice([0, 9])
            model = Tokens(random, words, length, outputs)
            outputs = model.head.out_features
        # Weight norm of the old kind sets its weight from a hook: it must not keep the one of another type.
        model = model.double().eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    channels = next(
        (m.in_channels for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))), 1
    )

    def batch(seed: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed)
        if family == "vectors":
            x = torch.randn(4 * BATCH, 5, generator=g, dtype=torch.float64)
        elif family == "images":
            x = torch.randn(BATCH, channels, 6, 6, generator=g, dtype=torch.float64)
        elif words:
            x = torch.randint(0, words, (BATCH, length), generator=g)
        else:
            x = torch.randn(BATCH, length, 5, generator=g, dtype=torch.float64)
        return x, torch.randint(0, outputs, (400,), generator=g)

    return Architecture(model, loss, batch)
