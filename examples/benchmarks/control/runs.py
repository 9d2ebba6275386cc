"""One run in all four ways: alone, at constant rates, controlled, stopped early."""

from __future__ import annotations

import logging
import math
import statistics
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from examples.benchmarks.control.families import at_rate, make
from examples.benchmarks.labelled.families import Batch, Case
from examples.benchmarks.labelled.labels import diverged
from shockwatch import ShockEarlyStopping, ShockLRController, ShockWatch

EVERY = 5


class Losses:
    """The loss on all the data after each step, and what the rules make of it."""

    def __init__(self, case: Case) -> None:
        self.case, self.values, self.event = case, [], None

    @torch.no_grad()
    def look(self) -> bool:
        """Take the loss; whether it is divergence."""
        loss = float(self.case.loss_fn(self.case.model, self.case.data))
        wrong = diverged(loss, self.values)
        self.values.append(loss)
        if wrong and self.event is None:
            self.event = len(self.values)
        return wrong

    @property
    def final(self) -> float:
        """Mean of the last 20; infinite if the run has diverged."""
        return math.inf if self.event is not None else statistics.fmean(self.values[-20:])


def alone(case: Case) -> Losses:
    """The run without any callback; ends where it diverges."""
    losses = Losses(case)
    for step in range(1, case.steps + 1):
        if case.rate is not None:
            for group in case.optimizer.param_groups:
                group["lr"] = case.rate(step)
        case.optimizer.zero_grad()
        case.loss_fn(case.model, case.batch(step)).backward()
        case.optimizer.step()
        if losses.look():
            break
    return losses


class _Module(L.LightningModule):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.model, self.case = case.model, case
        self.losses = Losses(case)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.case.loss_fn(self.model, batch)

    def on_train_batch_end(self, *args: Any) -> None:
        if self.losses.look():
            self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        rate, start = self.case.rate, float(self.case.optimizer.param_groups[0]["lr"])
        if rate is None:
            return self.case.optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(self.case.optimizer, lambda k: rate(k + 1) / start)
        return {"optimizer": self.case.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Wait(Callback):
    """Waits for the analysis at every snapshot."""

    def __init__(self, watch: ShockWatch) -> None:
        self.watch = watch

    def on_train_batch_end(self, *args: Any) -> None:
        self.watch.catch_up()


def watched(case: Case, acts: Callback) -> tuple[Losses, _Module]:
    """The run with ``ShockWatch`` and one callback that acts on it."""
    module = _Module(case)
    watch = ShockWatch(every_n_steps=EVERY, probe=1)
    trainer = L.Trainer(
        max_steps=case.steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[watch, _Wait(watch), acts],
    )  # fmt: skip
    batches = [case.batch(step) for step in range(1, case.steps + 1)]
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return module.losses, module


def by_hand(family: str, seed: int) -> tuple[float, float]:
    """The best of the constant rates a factor of two apart, and its final loss."""
    case = make(family, seed)
    top = float(case.optimizer.param_groups[0]["lr"])
    tried = []
    for k in range(-1, 8):
        rate = top / 2.0**k
        tried.append((alone(at_rate(make(family, seed), rate)).final, rate))
    return min(tried)


class _Factors(ShockLRController):
    """Remembers its smallest factor and how often it was below one."""

    lowest, lowered = 1.0, 0

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self.lowest = min(self.lowest, self.factor)
        self.lowered += self.factor < 1.0


def run(job: tuple[str, int], known: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    """One run, made in all four ways; the two without shockwatch are taken from ``known`` where it has them."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("shockwatch", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    family, seed = job
    plain = alone(make(family, seed))
    if job in known:
        tuned, rate = known[job]["tuned"], known[job]["tuned_rate"]
    else:
        tuned, rate = by_hand(family, seed)
    control = _Factors()
    steered, _ = watched(make(family, seed), control)
    stop = ShockEarlyStopping("shock/lr_lambda_max", threshold=2.0, patience=2)
    stopped, _ = watched(make(family, seed), stop)
    case = make(family, seed)
    return {
        "family": family,
        "seed": seed,
        "steps": case.steps,
        "diverges_at": plain.event,
        "alone": plain.final,
        "tuned": tuned,
        "tuned_rate": rate,
        "controlled": steered.final,
        "controlled_diverges_at": steered.event,
        "lowest_factor": control.lowest,
        "steps_lowered": control.lowered,
        "stopped_at": stop.stopped_step,
        "steps_made": len(stopped.values),
        "best_after_stop": min(plain.values[stop.stopped_step :], default=math.inf)
        if stop.stopped_step
        else None,
        "best_before_stop": min(stopped.values),
    }
