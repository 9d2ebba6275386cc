"""What the trainer is doing."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn


def is_fitting(trainer: Trainer) -> bool:
    """Whether this is a real fit, not a dry run of it."""
    return trainer.state.fn == TrainerFn.FITTING and not getattr(trainer, "fast_dev_run", False)
