"""One run under the Lightning trainer, with or without the watch."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from examples.benchmarks.overhead.workloads import Workload, classify
from examples.benchmarks.snapshot_cost import Batch
from shockwatch import ShockWatch


class _Batches(IterableDataset[Batch]):
    def __init__(self, workload: Workload, steps: int) -> None:
        self._workload, self._steps = workload, steps

    def __iter__(self) -> Iterator[Batch]:
        return self._workload.batches(self._steps)


class _Module(pl.LightningModule):
    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.net = workload.model()
        self._workload = workload

    def training_step(self, batch: Batch) -> Tensor:
        return classify(self.net, batch)

    def configure_optimizers(self) -> Optimizer:
        return self._workload.optimizer(self.net)


class _Ends(pl.Callback):
    """When each batch ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


class _TimedWatch(ShockWatch):
    """The seconds that the training thread spends in the hooks of every batch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._seconds = clock
        self.stalls: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        start = self._seconds()
        super().on_train_batch_start(*args)
        self.stalls.append(self._seconds() - start)

    def on_train_batch_end(self, *args: Any) -> None:
        start = self._seconds()
        super().on_train_batch_end(*args)
        self.stalls[-1] += self._seconds() - start


@dataclass
class Run:
    """What one run took, in seconds; the last fields are the watch's own and empty without it.

    Attributes:
        wall, cpu: of the whole ``fit``; ``cpu`` counts every thread.
        step: median between two batch ends.
        late: from the middle of the run to the end of ``fit``.
        stalls: of every batch, in the watch's hooks.
        taken: steps of the snapshots that were published.
        probes: steps of those with curvature.
        dropped: snapshots lost to a full queue.
        overhead: ``shockwatch/overhead`` at the end.
    """

    wall: float
    cpu: float
    step: float
    late: float
    stalls: list[float] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    probes: list[int] = field(default_factory=list)
    dropped: int = 0
    overhead: float = 0.0

    def at_snapshots(self) -> list[float]:
        """The stalls of the batches after which a snapshot was taken, without the first."""
        return [self.stalls[step - 1] for step in self.taken if 1 < step <= len(self.stalls)]


def fit(workload: Workload, steps: int, watched: bool, clock: Callable[[], float] = time.perf_counter) -> Run:
    """Train ``steps`` steps from the same weights on the same batches.

    Args:
        clock: of the stalls; on a machine that others use, ``time.thread_time`` leaves out the waits for a core.
    """
    ends = _Ends()
    watch = _TimedWatch(clock) if watched else None
    run = Run(0.0, 0.0, 0.0, 0.0)
    if watch is not None:
        watch.subscribe(lambda update: _note(run, update))
    module = _Module(workload)
    loader = DataLoader(_Batches(workload, steps), batch_size=None)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=TensorBoardLogger(folder),
            callbacks=[ends, *([watch] if watch is not None else [])],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.fit(module, loader)
        end = time.perf_counter()
        run.wall, run.cpu = end - wall, time.process_time() - cpu
        run.late = end - ends.times[steps // 2]
    run.step = statistics.median(b - a for a, b in zip(ends.times[:-1], ends.times[1:], strict=True))
    if watch is not None:
        run.stalls = watch.stalls
        run.dropped = int(watch.values["shockwatch/dropped"])
        run.overhead = watch.values["shockwatch/overhead"]
    return run


def _note(run: Run, update: Any) -> None:
    run.taken.append(update.step)
    if "shock/lambda_min" in update.values:
        run.probes.append(update.step)


def quantile(values: list[float], share: float) -> float:
    """The value that ``share`` of ``values`` do not exceed."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(share, interpolation="higher"))
