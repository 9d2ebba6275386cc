"""Balancing two stacks of matrices: the geometric mean of their Gram matrices, and its limit where there is none.

``A P`` and ``A^-T N`` have equal Gram matrices for ``A^T A = G_P^(-1/2) (G_P^(1/2) G_N G_P^(1/2))^(1/2) G_P^(-1/2)``
(Kempf & Ness 1979; theory.md 2). All shapes are batched: ``(blocks, d, columns)``, Gram matrices ``(blocks, d, d)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below this ratio of eigenvalues of a Gram matrix (in float64) a block counts as rank-deficient.
RANK_TOLERANCE = 1e-13
# Below this ratio of eigenvalues of the product of both Gram matrices its root has lost too many digits.
_DIGITS = 1e-6
# Above this ratio of pivots of a Gram matrix its rank is not in doubt.
_REGULAR = 1e-6
_TINY = torch.finfo(torch.float64).tiny


def conditioned(gram: Tensor, rank: int = 0) -> Tensor:
    """Which Gram matrices have this rank (0: full) and finite entries."""
    finite = torch.isfinite(gram).all(-1).all(-1)
    safe = torch.where(finite[:, None, None], gram, torch.zeros_like(gram))
    values = torch.linalg.eigvalsh(safe)
    full: Tensor = finite & (values[:, -rank] > RANK_TOLERANCE * values[:, -1]) & (values[:, -1] > 0)
    return full


def _factor(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors, and which of them are clearly regular."""
    lower, info = torch.linalg.cholesky_ex(gram)
    pivots = lower.diagonal(dim1=-2, dim2=-1).square()
    return lower, (info == 0) & (pivots.amin(-1) > _REGULAR * pivots.amax(-1))


def trace(matrices: Tensor) -> Tensor:
    """Traces, never zero."""
    result: Tensor = matrices.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(_TINY)
    return result


def balancing(p: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The balancing matrix of two Gram matrices, the identity where it would not be precise.

    Returns:
        Its eigenvectors, the logarithms of its eigenvalues, and for which blocks it is precise.
    """
    eye = torch.eye(p.shape[-1], dtype=torch.float64, device=p.device).expand_as(p)
    lower, precise = _factor(p)
    if not bool((precise & _factor(n)[1]).all()):
        # pivots that say little about the spectrum: look at it
        precise = conditioned(p) & conditioned(n)
        lower, info = torch.linalg.cholesky_ex(torch.where(precise[:, None, None], p, eye))
        precise = precise & (info == 0)
    lower, n = (torch.where(precise[:, None, None], matrix, eye) for matrix in (lower, n))
    # With P = L L^T the mean is L^-T (L^T N L)^(1/2) L^-1: one root fewer than by powers of P.
    inner = lower.mT @ n @ lower
    inner, axes = torch.linalg.eigh((inner + inner.mT) / 2)
    precise = precise & (inner[:, 0] > _DIGITS * inner[:, -1])
    root = (axes * inner.clamp_min(_TINY).sqrt()[:, None, :]) @ axes.mT
    half = torch.linalg.solve_triangular(lower.mT, root, upper=True)
    square = torch.linalg.solve_triangular(lower, half, upper=False, left=False)
    values, vectors = torch.linalg.eigh((square + square.mT) / 2)
    logs = 0.5 * torch.log(values.clamp_min(_TINY))
    return vectors, torch.where(precise[:, None], logs, 0.0), precise


def balanced(p: Tensor, n: Tensor, power: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Both stacks, float64, at the balanced point in the closure of their orbit, by their product alone.

    ``A P = K S^(1/2) U^T`` and ``A^-T N = K S^(1/2) V^T`` for ``P^T N = U S V^T``, with the isometry ``K`` for which
    ``A`` is symmetric. Squares no condition number, and where a side has lost its rank so do both, as in the limit.

    Args:
        power: of the balancing matrix; beyond 1: over-relaxed.

    Returns:
        Both stacks, and ``A``: the identity off the space that the product spans.
    """
    (p_basis, p_rest), (n_basis, n_rest) = (torch.linalg.qr(side.mT) for side in (p, n))
    left, values, right = torch.linalg.svd(p_rest @ n_rest.mT, full_matrices=False)
    alive = values > RANK_TOLERANCE * values[:, :1]
    root = torch.where(alive, values, 0.0).sqrt()[:, None, :]
    inverse = torch.where(root > 0, 1 / root, 0.0)
    # P = B S^(1/2) U^T and N = C S^(1/2) V^T; where the product has full rank B = K H and C = K / H
    b, c = p_rest.mT @ left * inverse, n_rest.mT @ right.mT * inverse
    turn = torch.linalg.svd(b + c, full_matrices=False)
    isometry = (turn.U @ turn.Vh) * alive[:, None, :]
    sinh, axes = torch.linalg.eigh((b.mT @ b - c.mT @ c) / 2)
    logs = torch.asinh(sinh) / 2  # of H
    frame = isometry @ axes

    def stretch(exponent: float) -> Tensor:
        result: Tensor = frame * torch.exp(exponent * logs)[:, None, :]
        return result

    new_p = stretch(1 - power) @ axes.mT @ (root * (p_basis @ left)).mT
    new_n = stretch(power - 1) @ axes.mT @ (root * (n_basis @ right.mT)).mT
    rest = torch.eye(p.shape[1], dtype=p.dtype, device=p.device) - isometry @ isometry.mT
    return new_p, new_n, stretch(-power) @ frame.mT + rest
