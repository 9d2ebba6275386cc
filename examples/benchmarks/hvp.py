"""Three ways to a Hessian-vector product: time in units of one gradient, and error against float64.

Run with ``OMP_NUM_THREADS=1 python examples/benchmarks/hvp.py``. The package takes the first (``StepLoss.linearize``):
its graph is built once for a point, and what counts is the price of one more product.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.autograd.forward_ad as forward
from snapshot_cost import CASES, Batch, Case, classify
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Vectors = list[Tensor]
Product = Callable[[Vectors], Vectors]


class Gradient:
    """The loss and its gradient as functions of the parameters; buffers are copied, never changed."""

    def __init__(self, model: nn.Module, batch: Batch, dtype: torch.dtype) -> None:
        self._model = copy.deepcopy(model).to(dtype)
        self._batch = (batch[0].to(dtype) if batch[0].is_floating_point() else batch[0], batch[1])
        self.point = [p.detach().clone() for p in self._model.parameters()]
        self._names = [n for n, _ in self._model.named_parameters()]

    def __call__(self, point: Vectors, create_graph: bool = False) -> Vectors:
        state = dict(zip(self._names, point, strict=True))
        state.update({n: b.clone() for n, b in self._model.named_buffers()})
        loss = classify(_Bound(self._model, state), self._batch)
        return list(torch.autograd.grad(loss, point, create_graph=create_graph))


class _Bound(nn.Module):
    """A module at other tensors."""

    def __init__(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._call = lambda x: functional_call(module, dict(state), (x,))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._call(x)
        return result


def plain(gradient: Gradient) -> Product:
    """One gradient: the unit."""
    return lambda _: gradient([p.detach().requires_grad_() for p in gradient.point])


def double_backward(gradient: Gradient) -> Product:
    """Differentiate ``<grad L, v>``; the graph of the gradient is kept."""
    inputs = [p.detach().requires_grad_() for p in gradient.point]
    first = gradient(inputs, create_graph=True)
    return lambda v: list(torch.autograd.grad(first, inputs, v, retain_graph=True))


def forward_over_reverse(gradient: Gradient) -> Product:
    """The directional derivative of the gradient, by forward mode."""

    def product(vector: Vectors) -> Vectors:
        with forward.dual_level():
            inputs = [
                forward.make_dual(p.detach().requires_grad_(), v)
                for p, v in zip(gradient.point, vector, strict=True)
            ]
            tangents = [forward.unpack_dual(g).tangent for g in gradient(inputs)]
            return [
                torch.zeros_like(p) if t is None else t.detach()
                for t, p in zip(tangents, inputs, strict=True)
            ]

    return product


def central_difference(gradient: Gradient) -> Product:
    """``(g(theta + e v) - g(theta - e v)) / 2 e`` with ``e |v| = eps^(1/3) (1 + |theta|)``."""
    size = float(sum(p.square().sum() for p in gradient.point)) ** 0.5
    scale = torch.finfo(gradient.point[0].dtype).eps ** (1 / 3) * (1 + size)

    def product(vector: Vectors) -> Vectors:
        step = scale / float(sum(v.square().sum() for v in vector)) ** 0.5
        sides = [
            gradient([(p + s * v).requires_grad_() for p, v in zip(gradient.point, vector, strict=True)])
            for s in (step, -step)
        ]
        return [(a - b) / (2 * step) for a, b in zip(*sides, strict=True)]

    return product


WAYS = {
    "double backward": double_backward,
    "forward over reverse": forward_over_reverse,
    "differences": central_difference,
}


def measure(case: Case, repeats: int) -> dict[str, tuple[float, float]]:
    """Per way: time of one product over that of one gradient (median, interleaved), and relative error."""
    torch.manual_seed(0)
    model, batch = case.make(), case.batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    for _ in range(10):  # away from the start
        optimizer.zero_grad()
        classify(model, batch).backward()
        optimizer.step()
    single, double = Gradient(model, batch, torch.float32), Gradient(model, batch, torch.float64)
    vector = [torch.randn_like(p) for p in single.point]
    exact = double_backward(double)([v.double() for v in vector])
    norm = float(sum(e.square().sum() for e in exact)) ** 0.5
    unit, products = plain(single), {name: way(single) for name, way in WAYS.items()}
    errors = {
        name: float(sum((a - b).square().sum() for a, b in zip(product(vector), exact, strict=True))) ** 0.5
        / norm
        for name, product in products.items()
    }
    ratios: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(repeats):
        for name, product in products.items():
            ratios[name].append(_seconds(product, vector) / _seconds(unit, vector))
    return {name: (statistics.median(ratios[name]), errors[name]) for name in products}


def _seconds(product: Product, vector: Vectors) -> float:
    start = time.perf_counter()
    product(vector)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--repeats", type=int, default=15)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':34} {'way':22} {'gradients':>9} {'error':>9}")
    for case in CASES:
        if chosen.only in case.name:
            # fused attention has no second derivative
            with sdpa_kernel(SDPBackend.MATH):
                for name, (ratio, error) in measure(case, chosen.repeats).items():
                    print(f"{case.name:34} {name:22} {ratio:9.2f} {error:9.1e}", flush=True)


if __name__ == "__main__":
    main()
