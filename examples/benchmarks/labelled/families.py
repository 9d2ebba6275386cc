"""The families of runs: model, data, optimiser, schedule, and what goes wrong in it, all from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


@dataclass
class Case:
    """One run to be made. ``batch(step)`` is what the step trains on; ``data`` is what the outcome is read from."""

    model: nn.Module
    loss_fn: Callable[[nn.Module, Batch], Tensor]
    optimizer: torch.optim.Optimizer
    steps: int
    data: Batch
    batch: Callable[[int], Batch]
    rate: Callable[[int], float] | None = None
    test: Batch | None = None
    every: int = 20
    hidden: tuple[str, ...] = ()


def squared(model: nn.Module, batch: Batch) -> Tensor:
    """Half the squared error, summed over outputs, averaged over data."""
    return 0.5 * (model(batch[0]) - batch[1]).square().sum(-1).mean()


def entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy over the last axis."""
    logits = model(batch[0])
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1))


def _stack(*widths: int, bias: bool = True, act: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (wide, out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(wide, out, bias=bias))
        if act is not None and i < len(widths) - 2:
            layers.append(act())
    return nn.Sequential(*layers).double()


def _uniform(seed: int, low: float, high: float) -> float:
    g = torch.Generator().manual_seed(seed)
    return low + (high - low) * float(torch.rand((), generator=g, dtype=torch.float64))


def _blobs(count: int = 96, noise: float = 2.0) -> Batch:
    y = torch.arange(count) % 4
    return 2 * torch.randn(4, 6).double()[y] + noise * torch.randn(count, 6).double(), y


def _small(data: Batch, size: int, seed: int) -> Callable[[int], Batch]:
    def batch(step: int) -> Batch:
        g = torch.Generator().manual_seed(100_003 * seed + step)
        index = torch.randperm(len(data[0]), generator=g)[:size]
        return data[0][index], data[1][index]

    return batch


def _sgd(model: nn.Module, lr: float, momentum: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr, momentum)


def deep_linear(seed: int) -> Case:
    """Two linear layers from a small start learn three singular values one after the other."""
    model = _stack(4, 4, 4, bias=False, act=None)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.01)
    left, right = (torch.linalg.qr(torch.randn(4, 4).double()).Q for _ in range(2))
    values = torch.tensor([3.0, 1.2, 0.5, 0.0]).double() * _uniform(seed, 0.9, 1.1)
    data = (torch.eye(4).double() * 2.0, 2.0 * (right * values) @ left)
    return Case(model, squared, _sgd(model, 0.02), 800, data, lambda _: data)


def relu_stages(seed: int) -> Case:
    """A ReLU student with a small start learns a teacher of two units."""
    teacher, model = _stack(5, 2, 1, bias=False), _stack(5, 12, 1, bias=False)
    with torch.no_grad():
        teacher[0].weight.copy_(torch.linalg.qr(torch.randn(5, 2).double()).Q.T * 1.5)
        teacher[2].weight.copy_(torch.tensor([[1.5, -1.0]]))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.02)
    x = torch.randn(128, 5).double()
    data = (x, teacher(x).detach())
    return Case(model, squared, _sgd(model, 0.04), 700, data, lambda _: data, hidden=("1",))


def grokking(seed: int) -> Case:
    """Modular addition, 31, half of the table; AdamW with weight decay 1."""
    p = 31
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    x = torch.cat([F.one_hot(pairs[:, 0], p), F.one_hot(pairs[:, 1], p)], 1).double()
    y = pairs.sum(1) % p
    order = torch.randperm(len(y))
    train, test = order[: len(y) * 6 // 10], order[len(y) * 6 // 10 :]
    model = _stack(2 * p, 128, p, bias=False)
    data = (x[train], y[train])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=1.0)
    return Case(model, entropy, optimizer, 1000, data, lambda _: data, test=(x[test], y[test]), every=100)


class Attention(nn.Module):
    """Causal or full attention without biases and norms; keeps its weights when asked to."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.heads, self.causal = heads, causal

    def scores(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k = (m(x).view(n, t, self.heads, d // self.heads).transpose(1, 2) for m in (self.q, self.k))
        s = q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5
        if self.causal:
            s = s.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -1e9)
        return s.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        v = self.v(x).view(n, t, self.heads, d // self.heads).transpose(1, 2)
        return self.o((self.scores(x) @ v).transpose(1, 2).reshape(n, t, d))


class TokenModel(nn.Module):
    """Embeddings and places, attention layers in a residual stream, a head; on all tokens or on their mean."""

    def __init__(self, words: int, length: int, width: int, layers: int, out: int, pooled: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.place = nn.Parameter(0.5 * torch.randn(length, width))
        self.layers = nn.ModuleList(Attention(width, 2, not pooled) for _ in range(layers))
        self.head = nn.Linear(width, out)
        self.pooled = pooled

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x.mean(1) if self.pooled else x)

    def head_entropy(self, tokens: Tensor) -> list[float]:
        """Mean entropy of every head of every layer."""
        x, found = self.embed(tokens) + self.place, []
        for layer in self.layers:
            s = layer.scores(x)
            found += (-(s * s.clamp_min(1e-300).log()).sum(-1)).mean((0, 2)).tolist()
            x = x + layer(x)
        return found


def induction(seed: int) -> Case:
    """Two attention layers on sequences that repeat: the second half can be copied once induction heads form."""
    words, half, g = 8, 6, torch.Generator().manual_seed(seed)

    def draw(count: int) -> Batch:
        first = torch.randint(words, (count, half), generator=g)
        sequence = torch.cat([first, first], 1)
        return sequence[:, :-1], sequence[:, 1:]

    model = TokenModel(words, 2 * half - 1, 16, 2, words, pooled=False).double()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    data = draw(64)
    return Case(model, entropy, optimizer, 700, data, lambda _: draw(32), every=100)


def high_rate(seed: int) -> Case:
    """Three linear layers, a long plateau, and a constant rate that the minimum behind it cannot bear."""
    model = _stack(3, 3, 3, 3, bias=False, act=None)
    start = _uniform(seed, 0.004, 0.007)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(start * torch.linalg.qr(torch.randn(3, 3).double()).Q)
        ends = torch.linalg.multi_dot([model[i].weight for i in (2, 1, 0)]) / start**3
    data = (torch.eye(3).double() * 3**0.5, (ends * 2.0).T * 3**0.5)
    return Case(model, squared, _sgd(model, 0.65), 500, data, lambda _: data, every=10)


def bad_schedule(seed: int) -> Case:
    """A warm-up that never ends, into rates far too high, on a small MLP regression."""
    x = torch.randn(96, 5).double()
    y = torch.stack([torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2], x[:, 3].abs()], 1)
    model = _stack(5, 12, 2, act=nn.Tanh)
    top = _uniform(seed, 1.0, 1.4)
    case = Case(model, squared, _sgd(model, 0.01), 800, (x, y), lambda _: (x, y), every=10)
    case.rate = lambda s: top * s / 800
    return case


def attention_collapse(seed: int) -> Case:
    """Attention without a norm, scaled up by its own learning; the rate of a warm-up without an end."""
    x = torch.randint(6, (48, 6))
    data = (x, (x[:, 0] + x[:, 3]) % 4)
    model = TokenModel(6, 6, 8, 1, 4, pooled=True).double()
    top = _uniform(seed, 2.0, 3.0)
    case = Case(model, entropy, _sgd(model, 0.01), 500, data, lambda _: data)
    case.rate = lambda s: top * s / 500
    return case


def corrupted(seed: int) -> Case:
    """A smooth MLP run into which three broken batches fall: nothing can tell of them beforehand."""
    data = _blobs()
    model, clean = _stack(6, 12, 4), _small(data, 32, seed)
    g = torch.Generator().manual_seed(seed)
    bad = {120 + 180 * k + int(torch.randint(60, (), generator=g)) for k in range(3)}

    def batch(step: int) -> Batch:
        x, y = clean(step)
        return (60 * x.flip(0), (y + 1) % 4) if step in bad else (x, y)

    return Case(model, entropy, _sgd(model, 0.03), 700, data, batch, hidden=("1",))


def dead_units(seed: int) -> Case:
    """A ReLU network whose rate is raised until a jump carries its units to where no datum reaches them."""
    x = torch.randn(96, 5).double() + 1.0
    y = 3.0 * (x[:, :1] * x[:, 1:2]) + 5.0
    model = _stack(5, 10, 10, 1)
    top = _uniform(seed, 0.8, 1.2)
    case = Case(
        model, squared, _sgd(model, 0.001), 600, (x, y), lambda _: (x, y), every=10, hidden=("1", "3")
    )
    case.rate = lambda s: 0.001 + top * (s / 600) ** 2
    return case


def logistic(seed: int) -> Case:
    """Negative: logistic regression with small batches."""
    data, model = _blobs(), _stack(6, 4)
    return Case(model, entropy, _sgd(model, 0.02, 0.9), 700, data, _small(data, 32, seed))


def smooth_mlp(seed: int) -> Case:
    """Negative: an MLP classifier with momentum and small batches."""
    data, model = _blobs(), _stack(6, 16, 4)
    return Case(model, entropy, _sgd(model, 0.007, 0.9), 700, data, _small(data, 48, seed), hidden=("1",))


def full_batch(seed: int) -> Case:
    """Negative: the same by full-batch gradient descent with cosine decay."""
    data, model = _blobs(), _stack(6, 16, 4)
    case = Case(model, entropy, _sgd(model, 0.1), 700, data, lambda _: data, hidden=("1",))
    case.rate = lambda s: 0.1 * 0.5 * (1 + float(torch.cos(torch.tensor(3.14159 * s / 700))))
    return case


def token_stages(seed: int) -> Case:
    """One attention layer at a moderate rate: one token must be found."""
    x = torch.randint(6, (48, 4))
    data = (x, (x == 2).any(1).long())
    model = TokenModel(6, 4, 6, 1, 2, pooled=True).double()
    return Case(model, entropy, _sgd(model, 0.08), 500, data, lambda _: data)


FAMILIES: dict[str, tuple[Callable[[int], Case], int]] = {
    "deep_linear": (deep_linear, 8),
    "relu_stages": (relu_stages, 6),
    "token_stages": (token_stages, 4),
    "grokking": (grokking, 2),
    "induction": (induction, 2),
    "high_rate": (high_rate, 8),
    "bad_schedule": (bad_schedule, 10),
    "attention_collapse": (attention_collapse, 4),
    "corrupted": (corrupted, 4),
    "dead_units": (dead_units, 6),
    "logistic": (logistic, 6),
    "smooth_mlp": (smooth_mlp, 8),
    "full_batch": (full_batch, 8),
}
"""Function and number of runs; the seeds are ``0 .. number - 1``."""


def make(family: str, seed: int) -> Case:
    """The run of this family and seed."""
    torch.manual_seed(1000 + seed)
    return FAMILIES[family][0](seed)
