"""The small models of the forecast benchmark; everything is drawn from a generator handed in."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeepLinear(nn.Module):
    """``depth`` square linear layers without bias."""

    def __init__(self, width: int, depth: int, scale: float, random: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Student(nn.Module):
    """One hidden ReLU layer without bias, scalar output, from a small start."""

    def __init__(self, inputs: int, hidden: int, scale: float, random: torch.Generator) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden, bias=False)
        self.second = nn.Linear(hidden, 1, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(F.relu(self.first(x)))
        return out.squeeze(-1)


class Factors(nn.Module):
    """``U V^T``; the input is ignored."""

    def __init__(self, rows: int, rank: int, scale: float, random: torch.Generator) -> None:
        super().__init__()
        self.left = nn.Parameter(scale * torch.randn(rows, rank, generator=random))
        self.right = nn.Parameter(scale * torch.randn(rows, rank, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        return self.left @ self.right.T


class Induction(nn.Module):
    """Two layers of causal attention with one head and no multilayer perceptron."""

    def __init__(self, words: int, length: int, width: int, random: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.empty(length, width))
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(6))
        self.out = nn.Linear(width, words, bias=False)
        self.register_buffer("mask", torch.full((length, length), -1e9).triu(1))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) / math.sqrt(width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places
        for layer in (0, 3):
            query, key, value = (self.maps[layer + i](x) for i in range(3))
            x = x + (query @ key.transpose(1, 2) / math.sqrt(self.width) + self.mask).softmax(-1) @ value
        logits: Tensor = self.out(x)
        return logits


class Classifier(nn.Module):
    """Logistic regression (``hidden`` 0) or one tanh layer."""

    def __init__(self, inputs: int, hidden: int, classes: int, random: torch.Generator) -> None:
        super().__init__()
        self.body: nn.Module = nn.Linear(inputs, hidden) if hidden else nn.Identity()
        self.head = nn.Linear(hidden or inputs, classes)
        self.curved = hidden > 0
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.body(x)
        out: Tensor = self.head(torch.tanh(inner) if self.curved else inner)
        return out
