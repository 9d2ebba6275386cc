"""Models with a residual stream that norms read, and the rotary attention one of them uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rotary(nn.Module):
    """Causal attention under rotary embedding; fewer key than query heads if ``kv`` is below two."""

    def __init__(self, interleaved: bool, kv: int = 2) -> None:
        super().__init__()
        self.interleaved, self.kv = interleaved, kv
        self.q, self.k, self.v = (nn.Linear(8, n * 4, bias=False) for n in (2, kv, kv))
        self.o, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 10)

    def turn(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
        if self.interleaved:
            a, b, c, s = x[..., ::2], x[..., 1::2], angle.cos(), angle.sin()
            return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)
        c, s = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
        return x * c + torch.cat((-x[..., 2:], x[..., :2]), -1) * s

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(x))).flatten(0, 1)

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = self.turn(q), self.turn(k)
        if self.kv == 1:
            k, v = (z[:, :, None].expand(b, 1, 2, t, 4).reshape(b, 2, t, 4) for z in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, 8)
        return self.o(mixed)


class RootMeanSquare(nn.Module):
    """RMS norm as transformers write it, but for its cast to single precision, which is ``cast``."""

    def __init__(self, cast: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight, self.cast = nn.Parameter(torch.ones(8)), cast

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.cast is None else x.to(self.cast)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Llama(nn.Module):
    """Untied words, RMS norms, rotary attention with shared keys, gated units: the stream may turn."""

    def __init__(self, cast: torch.dtype | None = None) -> None:
        super().__init__()
        self.token = nn.Embedding(17, 8)
        self.before, self.between, self.after = (RootMeanSquare(cast) for _ in range(3))
        self.attention = Rotary(False, 1)
        self.attention.head = nn.Identity()
        self.up, self.gate, self.down = (nn.Linear(a, b, bias=False) for a, b in ((8, 10), (8, 10), (10, 8)))
        self.head = nn.Linear(8, 17, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x)
        h = h + self.attention.mix(self.before(h))
        y = self.between(h)
        h = h + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.after(h)).flatten(0, 1)


class Vision(nn.Module):
    """Patches, a class token, two pre-norm layers: the stream may turn about the vector of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(8, 6)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.position = nn.Parameter(torch.randn(1, 4, 6))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(6, 2, 7, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat((self.token.expand(len(x), 1, 6), self.patch(x)), 1) + self.position
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h)[:, 0])


class Stack(nn.Module):
    """Residual blocks behind layer norms, with biases everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(9, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(8, 10) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(10, 8) for _ in range(2))
        self.out = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            h = h + down(F.gelu(up(norm(h))))
        return self.out(self.norms[2](h))
