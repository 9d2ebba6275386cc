"""A map of the heads: how strong each invariant product is, and how many directions it uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from shockwatch.figures.canvas import draw
from shockwatch.snapshot import Picture, State
from shockwatch.symmetry import Quotient
from shockwatch.symmetry.groups import GeneralLinear

_MOST_NAMED = 12


def heads_picture(quotient: Quotient, canonical: Mapping[str, torch.Tensor], step: int) -> Picture | None:
    """``shockwatch/heads``: spectral norm against effective rank, one dot a head; None if there are no blocks.

    Args:
        quotient: whose general linear groups are the blocks.
        canonical: a canonical state.
        step: optimiser step of the snapshot.
    """
    blocks = [group for group in quotient.groups if isinstance(group, GeneralLinear)]
    if not blocks:
        return None
    state: State = {name: tensor.detach() for name, tensor in canonical.items()}
    with torch.no_grad():
        values = [(block.name, block.head_invariants(state)) for block in blocks]

    def paint(ax: Any) -> None:
        for index, (name, head) in enumerate(values):
            ax.plot(
                head["effective_rank"].cpu().numpy(),
                head["spectral_norm"].cpu().numpy(),
                "o",
                color=f"C{index % 10}",
                label=name if index < _MOST_NAMED else None,
                alpha=0.8,
            )
        ax.set(
            xlabel="effective rank (directions used)", ylabel="spectral norm", title=f"blocks at step {step}"
        )
        ax.set_yscale("log")
        ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw("shockwatch/heads", (9.0, 4.0), 1, paint)
