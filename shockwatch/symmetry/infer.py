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
from shockwatch.symmetry.verify import Verifier, holds
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
    moving = {*trace.trainable, *(piece.name for piece in analysis.pieces)}
    state = {name: tensor for name, tensor in tensors.items() if name in moving}
    fixed = {name: tensor for name, tensor in tensors.items() if name not in moving}
    verifier = Verifier(StepLoss(trace.in_dtype(torch.float64), batch), state, fixed, seed)
    kept: list[SymmetryGroup] = []
    rejected: list[SymmetryGroup] = []
    for find in FINDERS:
        # A finder sees what was verified before it: a smaller group steps in where a larger one was refused.
        for group in find(system, tuple(kept)):
            group.residual = verifier.residual(group)
            if holds(group, group.residual):
                kept.append(group)
            elif not group.speculative:
                rejected.append(group)
    for group, name in zip(kept, unique(group.name for group in kept), strict=True):
        group.name = name
    return Quotient(
        kept,
        trace.trainable,
        aliases=_aliases(model),
        rejected=rejected,
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
