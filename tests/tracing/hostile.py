"""Steps that are hard to trace: compiled, with kernels of their own, with paths that depend on data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Mlp(nn.Module):
    """6-9-7-4 with ReLU: 16 scalings and 8 logit shifts where nothing stands in the way (theory.md 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 9), nn.Linear(9, 7), nn.Linear(7, 4)

    def middle(self, h: Tensor) -> Tensor:
        return F.relu(self.a(h))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(self.middle(x))))


class InnerCompiled(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.compile(self.a, backend="eager")  # type: ignore[assignment]


_doubled = torch.compile(lambda h: 2 * F.relu(h), backend="eager")


class CompiledFunction(Mlp):
    def middle(self, h: Tensor) -> Tensor:
        out: Tensor = _doubled(self.a(h))
        return out


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x > 0)


class _ForeignRelu(_Relu):
    """A kernel outside torch: the trace sees a constant come out of nowhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy().clip(0))


def _gradient(ctx: Any, grad: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return grad * (x > 0)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


@torch.library.custom_op("shockwatch_tests::relu", mutates_args=())
def described_relu(x: Tensor) -> Tensor:
    return x.clamp_min(0)


@described_relu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("shockwatch_tests::bare_relu", mutates_args=())
def bare_relu(x: Tensor) -> Tensor:
    """An operator that fake tensors know nothing of."""
    return torch.from_numpy(x.detach().numpy().clip(0))


for _operator in (described_relu, bare_relu):
    _operator.register_autograd(_gradient, setup_context=_keep)


class Activation(Mlp):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def middle(self, h: Tensor) -> Tensor:
        return self.function(self.a(h))


class BranchOnHidden(Mlp):
    def middle(self, h: Tensor) -> Tensor:
        h = F.relu(self.a(h))
        return 2 * h if h.sum() > 0 else torch.tanh(h)


class BranchOnInput(Mlp):
    """ReLU on one kind of batch, tanh on the other: what one path allows the other forbids."""

    def middle(self, h: Tensor) -> Tensor:
        return F.relu(self.a(h)) if h.sum() > 0 else torch.tanh(self.a(h))


class DividedByItem(Mlp):
    def middle(self, h: Tensor) -> Tensor:
        h = F.relu(self.a(h))
        return h / max(h.norm().item(), 1e-3)


class Masked(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        keep = x[:, 0] > 0
        return super().forward(torch.cat((x[keep], x[torch.nonzero(~keep)[:, 0]])))


class Loop(Mlp):
    def middle(self, h: Tensor) -> Tensor:
        times = int(h.abs().max().item())
        h = F.relu(self.a(h))
        for _ in range(times):
            h = h + 0.1 * F.relu(h)
        return h


class Checkpointed(Mlp):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def middle(self, h: Tensor) -> Tensor:
        result: Tensor = checkpoint(super().middle, h, use_reentrant=self.reentrant)
        return result


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells, self.head = kind(8, 5, batch_first=True), nn.Linear(5, 4)  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0]).flatten(0, 1)


class TopK(Mlp):
    def middle(self, h: Tensor) -> Tensor:
        h = F.relu(self.a(h))
        values, where = h.topk(3, -1)
        return torch.zeros_like(h).scatter(-1, where, values)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.b, self.c = nn.EmbeddingBag(4, 6), nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, y: Tensor) -> Tensor:
        return self.c(F.relu(self.b(self.words(y[:, None]))))


class Counting(Mlp):
    """Keeps a running mean that nobody reads, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(9))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.mean: Tensor
        self.calls: Tensor

    def middle(self, h: Tensor) -> Tensor:
        h = F.relu(self.a(h))
        self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        self.calls += 1
        return h


class Centred(Counting):
    def middle(self, h: Tensor) -> Tensor:
        h = F.relu(self.a(h))
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h - self.mean


class NoGradient(Mlp):
    def middle(self, h: Tensor) -> Tensor:
        h = F.relu(self.a(h))
        with torch.no_grad():
            level = h.mean(0)
        return h - level


class Mixed(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


class Logged(Mlp):
    """Numbers for a log beside the loss."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.accuracy = (out.argmax(-1) == 0).double().mean().detach()
        return out


class InPlace(Mlp):
    def middle(self, h: Tensor) -> Tensor:
        h = self.a(h)
        return h.relu_()


def _frozen() -> nn.Module:
    model = Mlp()
    model.b.requires_grad_(False)
    return model


def _compiled_in_place() -> nn.Module:
    model = Mlp()
    model.compile(backend="eager")
    return model


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    out = model(batch[0])
    return F.cross_entropy(out.to(torch.promote_types(out.dtype, torch.float32)), batch[1])


def _vectors(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(24, 6, generator=g, dtype=torch.float64), torch.randint(0, 4, (24,), generator=g)


def _sequences(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, 8, generator=g, dtype=torch.float64), torch.randint(0, 4, (32,), generator=g)


def _labels(seed: int) -> tuple[Tensor, Tensor]:
    y = _vectors(seed)[1]
    return y, y


@dataclass(frozen=True)
class Hostile:
    """A step and what is to be found in it.

    Attributes:
        dims: continuous directions by kind.
        blocked: operators that have to be named.
        along_path: whether it can only be traced along the path of its batch.
        refused: kinds that the path of the batch admits, and the module does not.
        curvature: whether the graph follows the parameters.
        gradient: whether the step's own gradient is that of its value (it is not where parts run under ``no_grad``).
    """

    name: str
    build: Callable[[], nn.Module]
    dims: dict[str, int] = field(default_factory=lambda: {"positive scaling": 16, "translation": 8})
    blocked: tuple[str, ...] = ()
    along_path: bool = False
    refused: tuple[str, ...] = ()
    curvature: bool = True
    gradient: bool = True
    batch: Callable[[int], tuple[Tensor, Tensor]] = _vectors

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return self.build().double()


HALF = {"positive scaling": 7, "translation": 8}

HOSTILE = [
    Hostile("compiled", lambda: torch.compile(Mlp(), backend="eager")),  # type: ignore[arg-type,return-value]
    Hostile("inner module compiled", InnerCompiled),
    Hostile("compiled in place", _compiled_in_place),
    Hostile("compiled function", CompiledFunction),
    Hostile("autograd function", lambda: Activation(_Relu.apply)),  # type: ignore[no-untyped-call]
    Hostile("custom operator", lambda: Activation(described_relu), HALF, ("shockwatch_tests::relu",)),
    Hostile(
        "bare operator",
        lambda: Activation(bare_relu),
        HALF,
        ("shockwatch_tests::bare_relu",),
        along_path=True,
    ),
    Hostile(
        "foreign kernel",
        lambda: Activation(_ForeignRelu.apply),  # type: ignore[no-untyped-call]
        HALF,
        along_path=True,
        refused=("scale invariance", "permutation"),
        curvature=False,
    ),
    Hostile("branch on hidden", BranchOnHidden, along_path=True),
    Hostile("branch on input", BranchOnInput, HALF, along_path=True, refused=("positive scaling",)),
    Hostile("item", DividedByItem, HALF, along_path=True, refused=("positive scaling",), curvature=False),
    Hostile("masks", Masked, along_path=True),
    Hostile("loop", Loop, along_path=True),
    Hostile("checkpoint", lambda: Checkpointed(False)),
    Hostile("reentrant checkpoint", lambda: Checkpointed(True), gradient=False),
    # One factor for all units keeps their order.
    Hostile("top k", TopK, {**HALF, "positive scaling": 8}),
    Hostile("bag", Bag, {"positive scaling": 5, "translation": 6}, ("_embedding_bag",), batch=_labels),
    Hostile("running mean", Counting, HALF),
    Hostile("read running mean", Centred, HALF, gradient=False),
    Hostile("no gradient", NoGradient, gradient=False),
    Hostile("autocast", Mixed, gradient=False),
    Hostile("numbers for a log", Logged),
    Hostile("in place", InPlace),
    Hostile("frozen", _frozen, {"translation": 8}),
    Hostile(
        "scripted",
        lambda: torch.jit.script(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))),
        {"positive scaling": 9, "translation": 10},
    ),
]

RECURRENT = [
    Hostile(kind.__name__, lambda kind=kind: Recurrent(kind), batch=_sequences)
    for kind in (nn.RNN, nn.LSTM, nn.GRU)
]  # type: ignore[misc]
