"""Strategies that share the parameters out over ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FullyShardedDataParallel

from shockwatch.callbacks._private_module import private_module
from shockwatch.callbacks._stage import is_fitting
from shockwatch.session import LossFunction, Settings
from shockwatch.worker import Analysis

if TYPE_CHECKING:
    from shockwatch.ranks import Ranks


def joined(trainer: Trainer) -> Ranks | None:
    """This rank's part in a fit whose strategy shares out the parameters; None for other fits. A collective."""
    strategy = trainer.strategy
    shares = isinstance(strategy, (FSDPStrategy, ModelParallelStrategy))
    # the lower stages leave whole parameters on every rank
    shares = shares or (isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3)
    if not shares or not is_fitting(trainer):
        return None
    # late: it brings the whole analysis
    from shockwatch.ranks import Ranks

    return Ranks()


def sharded_analysis(
    ranks: Ranks,
    trainer: Trainer,
    module: LightningModule,
    loss: Callable[[], LossFunction | None],
    batch: Any,
    settings: Settings,
) -> Analysis:
    """The analysis of this rank; ``loss`` is asked for on rank zero only, which traces the step."""
    # FSDP1 wraps the module from outside; that is where its shards are known
    outside = trainer.strategy.model
    ranks.find(outside if isinstance(outside, FullyShardedDataParallel) else module)
    return ranks.analysis(lambda layout: (private_module(module, layout), loss()), batch, settings)
