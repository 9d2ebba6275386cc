"""How a callback finds the ``ShockWatch`` it acts on."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer

from shockwatch.callbacks.shock_watch import ShockWatch


def find_watch(trainer: Trainer, who: Callback) -> ShockWatch:
    """The trainer's ``ShockWatch``.

    Raises:
        MisconfigurationException: if there is none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ShockWatch):
            return callback
    raise MisconfigurationException(
        f"{type(who).__name__} acts on what ShockWatch publishes, and the trainer has no ShockWatch: "
        f"Trainer(callbacks=[ShockWatch(), {type(who).__name__}()])"
    )


def agreed_step(trainer: Trainer, watch: ShockWatch) -> bool:
    """Whether all ranks may meet now: a collective, so at steps that every rank knows.

    One rank alone may act at every batch; several meet only at snapshot steps.
    """
    return bool(trainer.world_size == 1 or trainer.global_step % watch.every_n_steps == 0)
