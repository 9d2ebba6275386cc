"""The operator whose largest eigenvalue decides the stability of Adam: ``D^-1/2 H D^-1/2`` (Cohen et al. 2022).

Adam steps by ``theta <- theta - lr D^-1 m`` with ``D = sqrt(v_hat) + eps``. It reads the parameters as they are stored,
so ``D`` and ``H`` belong to the raw point: a canonical one has another ``D``, and the plain ``P H P`` does not decide.
With ``D`` frozen this is a heavy ball of momentum ``beta_1`` and dampening ``beta_1``; its edge is
``lambda_max(D^-1/2 H D^-1/2) = (2 + 2 beta_1) / ((1 - beta_1) lr)``, 38 / lr for ``beta_1 = 0.9``. Folding that factor
into the rates puts the edge at 2, as for gradient descent (:func:`shockwatch.clock.stability_rate`).

The watch measures it at every probe, as ``raw/lr_lambda_max``, from the copy of Adam's state in the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.optim import Optimizer

from shockwatch.clock import group_weight_decay
from shockwatch.curvature.ritz import Operator
from shockwatch.errors import require_float
from shockwatch.moments import is_adam, moments_of
from shockwatch.snapshot import Moments
from shockwatch.symmetry.generic import widened
from shockwatch.tracing import LossFunction, StepLoss, trace_step


def adam_rates(optimizer: Optimizer, parameters: Sequence[Tensor]) -> Tensor:
    """Rate of every coordinate, ``lr (1 - beta_1) / ((1 + beta_1) (1 - beta_1^t) D)``, from the optimiser's state.

    ``D = sqrt(v / (1 - beta_2^t)) + eps`` (with ``amsgrad`` the largest ``v`` so far); every parameter group has its
    own ``lr``, ``beta`` and ``eps``.

    Args:
        optimizer: ``torch.optim.Adam`` or ``AdamW`` after at least one step.
        parameters: which of its parameters, in this order; one that never had a gradient has rate zero.

    Returns:
        float64, shape ``(sum of sizes,)``, each tensor row-major.

    Raises:
        ValueError: for another optimiser, ``maximize``, a parameter it does not hold, or before the first step.
    """
    if not is_adam(optimizer):
        raise ValueError(f"optimizer={type(optimizer).__name__}: must be torch.optim.Adam or AdamW")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    foreign = [i for i, p in enumerate(parameters) if id(p) not in groups]
    if foreign:
        raise ValueError(f"parameters[{foreign[0]}]: is not one of the optimizer's")
    if any(group["maximize"] for group in groups.values()):
        raise ValueError("optimizer.maximize=True: must be False, there is no edge in going uphill")
    states = [optimizer.state.get(p, {}) for p in parameters]
    if not any(states):
        raise ValueError("optimizer: must have taken a step, its state is empty")
    held = [
        moments_of(optimizer, groups[id(p)], p, state) if state else None
        for p, state in zip(parameters, states, strict=True)
    ]
    return flat_rates(held, parameters, torch.float64)


def flat_rates(
    moments: Sequence[Moments | None], like: Sequence[Tensor], dtype: torch.dtype | None = None
) -> Tensor:
    """:func:`adam_rates` from the moments of each tensor; zero where there are none.

    Args:
        moments: one a tensor.
        like: the tensors, for their shapes.
        dtype: of the result; ``None``: that of ``like``.
    """
    parts = [
        torch.zeros_like(tensor, dtype=dtype) if held is None else _rates(held, dtype or tensor.dtype)
        for held, tensor in zip(moments, like, strict=True)
    ]
    return torch.cat([part.detach().reshape(-1) for part in parts])


def _rates(held: Moments, dtype: torch.dtype) -> Tensor:
    steps = float(held.steps)
    squares = (held.square if held.largest is None else held.largest).to(dtype)
    scale = (squares / (1.0 - held.second**steps)).sqrt_().add_(held.eps)
    rate = held.rate * (1.0 - held.first) / ((1.0 + held.first) * (1.0 - held.first**steps))
    rates: Tensor = scale.reciprocal_().mul_(rate)
    return rates


def preconditioned(operator: Operator, rates: Tensor) -> Operator:
    """``v -> S^1/2 H S^1/2 v`` with ``S = diag(rates)``: symmetric, with the eigenvalues of ``S H``.

    Args:
        operator: ``v -> H v``, shape ``(dim,)`` to ``(dim,)``.
        rates: not negative, shape ``(dim,)``.

    Raises:
        ValueError: if a rate is negative or not finite.
    """
    if not bool((rates >= 0.0).all() and rates.isfinite().all()):
        raise ValueError(
            f"rates: must be finite and >= 0, got {float(rates.min())!r} to {float(rates.max())!r}"
        )
    root = rates.sqrt()
    return lambda vector: root.to(vector) * operator(root.to(vector) * vector)


def adam_stability(
    model: nn.Module, loss_fn: LossFunction, batch: Any, optimizer: Optimizer, *, tolerance: float = 1e-3
) -> float:
    """How near Adam is to its edge of stability: 2 is the edge, whatever ``lr`` and ``beta_1``.

    The largest eigenvalue of :func:`preconditioned` at the parameters as stored; ``H`` is that of ``loss_fn`` on
    ``batch``, with dropout off, in float64. Coupled weight decay (``Adam(weight_decay=w)``) adds ``w`` to ``H``; the
    decoupled one of ``AdamW`` does not enter. The model and the optimiser are only read.

    Args:
        tolerance: relative accuracy of the eigenvalue.

    Raises:
        ValueError: see :func:`adam_rates`.
    """
    require_float("tolerance", tolerance, 0.0, 1.0, open_low=True)
    live = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = widened(live)
    loss = StepLoss(trace_step(model, loss_fn, batch).in_dtype(torch.float64), batch)
    rates = adam_rates(optimizer, [live[name] for name in loss.names])
    decay = torch.cat([_decay(optimizer, live[name]) for name in loss.names])
    _, gradient, product = loss.linearize(state, state)
    sizes = [g.numel() for g in gradient]

    def hessian(vector: Tensor) -> Tensor:
        parts = [v.reshape(g.shape) for v, g in zip(torch.split(vector, sizes), gradient, strict=True)]
        return torch.cat([image.reshape(-1) for image in product(parts)]) + decay * vector

    return _largest(preconditioned(hessian, rates), rates.cpu(), tolerance)


def _decay(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    """The coupled weight decay at every coordinate."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    rate = group_weight_decay(optimizer, group)
    return torch.full_like(parameter, rate, dtype=torch.float64).reshape(-1)


def _largest(operator: Callable[[Tensor], Tensor], like: Tensor, tolerance: float) -> float:
    def matvec(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return operator(torch.from_numpy(np.array(vector).reshape(-1))).numpy()

    size = like.numel()
    if size == 1:
        return float(matvec(np.ones(1))[0])
    start = np.random.default_rng(0).standard_normal(size)
    linear = LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    return float(eigsh(linear, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)[0])
