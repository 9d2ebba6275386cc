"""From a model and one batch to a verified quotient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shockwatch.symmetry.analysis import analyse
from shockwatch.symmetry.charges import ChargeSystem
from shockwatch.symmetry.groups import FINDERS, SymmetryGroup
from shockwatch.symmetry.naming import unique
from shockwatch.symmetry.quotient import Quotient
from shockwatch.symmetry.verify import holds, measure
from shockwatch.tracing import StepLoss, Trace, trace_step
from shockwatch.tracing.trace import LossFunction


def infer_symmetries(model: nn.Module, loss_fn: LossFunction, batch: Any, *, seed: int = 0) -> Quotient:
    """Read the symmetry groups off the graph of one training step and verify each of them numerically.

    Args:
        loss_fn: ``loss_fn(model, batch) -> scalar tensor``.
        batch: any structure of tensors that ``loss_fn`` takes.
        seed: of the random elements that verification applies.

    Returns:
        The quotient by every group whose measured invariance holds; a group the measurement refused is in
        ``rejected``, an operator without a rule in ``blocked``.

    Raises:
        TraceError: if the step cannot be traced.
    """
    return quotient_of(trace_step(model, loss_fn, batch), model, batch, seed)


def quotient_of(trace: Trace, model: nn.Module, batch: Any, seed: int = 0) -> Quotient:
    """The verified quotient of a traced step."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    analysis = analyse(trace, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    system = ChargeSystem(analysis)
    suggested: list[SymmetryGroup] = []
    for find in FINDERS:
        suggested += find(system, tuple(suggested))
    for group, name in zip(suggested, unique(group.name for group in suggested), strict=True):
        group.name = name
    moving = {*trace.trainable, *(name for group in suggested for name in group.parameters)}
    state = {name: tensor for name, tensor in tensors.items() if name in moving}
    fixed = {name: tensor for name, tensor in tensors.items() if name not in moving}
    residuals = measure(suggested, StepLoss(trace.in_dtype(torch.float64), batch), state, fixed, seed)
    for group, residual in zip(suggested, residuals, strict=True):
        group.residual = residual
    return Quotient(
        [group for group in suggested if holds(group, group.residual)],
        trace.trainable,
        aliases=_aliases(model),
        rejected=[group for group in suggested if not holds(group, group.residual)],
        blocked=analysis.blocked,
    )


def _aliases(model: nn.Module) -> dict[str, str]:
    """Second names of tied parameters, each with the first."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            aliases[name] = known
    return aliases
