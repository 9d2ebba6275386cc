"""Redundant directions that no group explains, and the tensors that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shockwatch.symmetry.oracle import gradient_rows, rank, trainable_entries
from shockwatch.symmetry.quotient import Quotient
from shockwatch.tracing import Trace

LIMIT = 3_000
"""Most trainable parameters: singular vectors of an n x n matrix take minutes beyond."""

_OUTSIDE = (
    0.5  # horizontal parts of an orthonormal basis have length 0 or 1: anything between tells them apart
)


@dataclass(frozen=True)
class Unexplained:
    """Directions of the null space of all loss gradients that are horizontal.

    Attributes:
        count: how many.
        shares: parameter -> its share of their squared norm, largest first; they sum to 1.
    """

    count: int
    shares: dict[str, float]


def unexplained(quotient: Quotient, trace: Trace, model: nn.Module, batch: Any, seed: int = 0) -> Unexplained:
    """The null space of loss gradients at a generic point, less the span of the groups' generators.

    What is left comes from narrow inputs or outputs (a map that reads fewer numbers than it writes cannot be told from
    others: in a linear network 6-5-5-4, 57 directions are redundant and groups explain 55), or from a group that is
    not known here. Which of the two, the tensors that carry it suggest: widen the input or output and look again.

    Raises:
        ValueError: above ``LIMIT`` trainable parameters.
    """
    if (count := trainable_entries(model)) > LIMIT:
        raise ValueError(
            f"model with {count:,} trainable parameters: naming directions takes at most {LIMIT:,}"
        )
    # not at the canonical one: in a narrow network that is a limit of low rank, with a larger null space
    state, rows = gradient_rows(trace, model, batch, seed=seed)
    _, values, vectors = torch.linalg.svd(rows, full_matrices=True)
    null = vectors[rank(values) :]
    if not len(null):
        return Unexplained(0, {})
    project = quotient.projector(state)
    outside = torch.stack([quotient.flatten(project(quotient.unflatten(v.clone(), state))) for v in null])
    _, sizes, directions = torch.linalg.svd(outside, full_matrices=False)
    left = directions[sizes > _OUTSIDE]
    weights = quotient.unflatten(left.square().sum(0), state)
    total = max(len(left), 1)
    shares = {name: float(weight.sum()) / total for name, weight in weights.items()}
    ordered = sorted(shares.items(), key=lambda entry: -entry[1])
    return Unexplained(len(left), {name: share for name, share in ordered if share > 0.0})
