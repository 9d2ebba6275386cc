"""The true number of redundant directions, by linear algebra alone (theory.md 1, "The oracle")."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from shockwatch.snapshot import State
from shockwatch.symmetry.generic import generic_point, widened
from shockwatch.tracing import LossFunction, StepLoss, Trace, trace_step

LIMIT = 10_000
"""Most trainable parameters: the spectrum of an n x n matrix takes 8 n^2 bytes and minutes beyond."""

_SPARE = 40
_POINTS, _PROBES = 16, 20
_ROUNDING = 1e-15


def true_redundancy(
    model: nn.Module, loss_fn: LossFunction, batch: Any, *, seed: int = 0, keep_casts: bool = True
) -> int:
    """Trainable parameters minus the rank of loss gradients over random batches, at a generic point in float64.

    It knows no symmetry, so it judges those found; directions that an eps keeps from being exact do not count.

    Args:
        loss_fn: ``loss_fn(model, batch) -> scalar tensor``; the evaluation-mode step, as inference sees it.
        batch: the pattern of the random batches, see :func:`redrawn`.
        seed: of the batches and of the point.
        keep_casts: whether what the model computes in a type coarser than that of its parameters stays so (norms in
            single precision inside a model in double precision): its rounding then hides directions.

    Raises:
        TraceError: if the step cannot be traced.
        ValueError: above ``LIMIT`` trainable parameters, or where a gradient is not finite.
    """
    require_small(model)
    return redundancy_of(trace_step(model, loss_fn, batch), model, batch, seed, keep_casts)


def trainable_entries(model: nn.Module) -> int:
    """How many numbers training moves."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad and p.is_floating_point())


def require_small(model: nn.Module) -> None:
    """Raise ValueError if ``model`` has more than ``LIMIT`` trainable parameters."""
    if (count := trainable_entries(model)) > LIMIT:
        raise ValueError(
            f"model={type(model).__name__} with {count:,} trainable parameters: "
            f"the oracle takes at most {LIMIT:,}"
        )


def redundancy_of(trace: Trace, model: nn.Module, batch: Any, seed: int = 0, keep_casts: bool = True) -> int:
    """:func:`true_redundancy` of a traced step."""
    rows = gradient_rows(trace, model, batch, seed=seed, keep_casts=keep_casts)[1]
    return rows.shape[1] - rank(torch.linalg.svdvals(rows))


def gradient_rows(
    trace: Trace,
    model: nn.Module,
    batch: Any,
    *,
    seed: int = 0,
    keep_casts: bool = True,
) -> tuple[State, Tensor]:
    """A generic point, and loss gradients there on more random batches than there are parameters.

    Returns:
        The point, buffers included, and gradients as rows in the order of ``trace.trainable``, shape
        ``(batches, parameters)``.

    Raises:
        ValueError: above ``LIMIT`` trainable parameters, or where a gradient is not finite.
    """
    require_small(model)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    own = {name: tensors[name] for name in trace.trainable}
    fixed = widened({name: tensors[name] for name in trace.fixed})
    wide = trace.in_dtype(torch.float64, keep_casts=keep_casts)
    count = sum(tensor.numel() for tensor in own.values())

    def gradients(point: State, number: int) -> Tensor:
        rows = torch.empty(number, count, dtype=torch.float64)
        for row in rows:
            _, gradient = StepLoss(wide, redrawn(batch, generator)).gradient(point, fixed)
            row.copy_(torch.cat([part.reshape(-1) for part in gradient]))
        if not bool(torch.isfinite(rows).all()):
            raise ValueError("loss gradient=nan or inf on a random batch: must be finite")
        return rows

    # Where a unit is dead, or hardly ever active, the rank is below that of a generic point: of some points, the one
    # with the fewest parameters that never have a gradient, then with the fewest zeros.
    points = [generic_point(own, generator) for _ in range(_POINTS)]
    zero = [gradients(point, _PROBES) == 0 for point in points]
    best = min(range(_POINTS), key=lambda k: (int(zero[k].all(0).sum()), int(zero[k].sum())))
    state = {**fixed, **points[best]}
    return state, gradients(state, count + _SPARE)


def redrawn(batch: Any, generator: torch.Generator) -> Any:
    """``batch`` with every tensor drawn anew in its shape.

    Floating-point tensors are standard normal, integers uniform between the least and the largest value given.
    Booleans and negative integers (labels to ignore) stay.
    """

    def draw(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            return drawn.to(tensor.device, tensor.dtype)
        seen = tensor[tensor >= 0] if tensor.dtype != torch.bool and not tensor.is_complex() else tensor[:0]
        if not seen.numel():
            return tensor
        low, high = int(seen.min()), int(seen.max())
        drawn = torch.randint(low, high + 1, tensor.shape, generator=generator)
        return torch.where(tensor < 0, tensor, drawn.to(tensor.device, tensor.dtype))

    return pytree.tree_map_only(Tensor, draw, batch)


def rank(values: Tensor) -> int:
    """The numerical rank from descending singular values: cut at the widest gap, the one down to rounding included."""
    if not values.numel() or float(values[0]) == 0.0:
        return 0
    logs = torch.log10((values / values[0]).clamp_min(_ROUNDING))
    logs = torch.cat([logs, logs.new_tensor([_ROUNDING]).log10()])
    return int((logs[:-1] - logs[1:]).argmax()) + 1
