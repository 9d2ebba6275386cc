"""What ``torch.optim.Adam`` and ``AdamW`` hold, read without touching it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from shockwatch.clock import group_weight_decay
from shockwatch.snapshot import Moments


def is_adam(optimizer: Optimizer) -> bool:
    """Whether it is one of those, or derived from them."""
    return isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))


def adam_moments(named: Mapping[str, Tensor], optimizers: Iterable[Optimizer]) -> dict[str, Moments] | None:
    """The live state of Adam by parameter, not copies; waits for no device.

    ``None`` where any of ``named`` is trained by another optimiser, where the state is not as torch names it, and
    before the first step. A parameter without a state (frozen, or never given a gradient) is left out.

    Args:
        named: the live parameters; other tensors may be among them.
        optimizers: of the run.
    """
    names = {id(tensor): name for name, tensor in named.items()}
    found: dict[str, Moments] = {}
    for optimizer in optimizers:
        try:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    name = names.get(id(parameter))
                    if name is None or not parameter.requires_grad:
                        continue
                    if not is_adam(optimizer) or group["maximize"]:
                        return None
                    # not indexed: the state makes an entry for what it has not
                    if state := optimizer.state.get(parameter):
                        found[name] = moments_of(optimizer, group, parameter, state)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
    return {name: found[name] for name in named if name in found} or None


def moments_of(
    optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor, state: Mapping[str, Any]
) -> Moments:
    """The moments of one parameter of ``group``.

    Raises:
        KeyError: if ``state`` has not torch's names.
        ValueError: if a moment has another shape than the parameter, or is not a dense, real tensor.
    """
    largest = state["max_exp_avg_sq"] if group["amsgrad"] else None
    moments = [state["exp_avg"], state["exp_avg_sq"], *(() if largest is None else (largest,))]
    for moment in moments:
        if moment.shape != parameter.shape or moment.is_complex() or moment.layout != torch.strided:
            raise ValueError(f"state: a moment is {tuple(moment.shape)} {moment.dtype} {moment.layout}")
    steps = state["step"]
    first, second = (float(beta) for beta in group["betas"])
    coupled = group_weight_decay(optimizer, dict(group))
    return Moments(
        mean=moments[0].detach(),
        square=moments[1].detach(),
        largest=None if largest is None else largest.detach(),
        steps=steps if isinstance(steps, Tensor) and steps.device.type != "cpu" else float(steps),
        rate=float(group["lr"]),
        first=first,
        second=second,
        eps=float(group["eps"]),
        coupled=coupled,
        decoupled=0.0 if coupled else float(group["weight_decay"]),
    )
