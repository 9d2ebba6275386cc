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
_DECADE = 10.0


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
        strengths = torch.cat([head["spectral_norm"].flatten().cpu() for _, head in values])
        if strengths.min() > 0 and strengths.max() > _DECADE * strengths.min():
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0.0)
        ax.set_xlim(left=0.9)
        ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))

    return draw("shockwatch/heads", (5.0, 3.6 + 0.2 * min(len(values), _MOST_NAMED)), 1, paint)
