"""Watches a Lightning run and publishes what the analysis finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from shockwatch import session
from shockwatch.alerts import Alert, AlertManager, Alerts, Sink
from shockwatch.budget import Probe
from shockwatch.callbacks._private_module import (
    private_module,
    reads_iterator,
    watched_loss,
)
from shockwatch.callbacks._publisher import Publisher
from shockwatch.callbacks._sharded import joined, sharded_analysis
from shockwatch.callbacks._stage import is_fitting
from shockwatch.clock import TrainingClock
from shockwatch.guard import never_raises
from shockwatch.memory import Memory
from shockwatch.replica import private_batch
from shockwatch.session import Session, Settings, Update
from shockwatch.symmetry import Declared
from shockwatch.worker import Analysis

if TYPE_CHECKING:
    from shockwatch.ranks import Ranks

_AVERAGING = ("WeightAveraging", "StochasticWeightAveraging")


class ShockWatch(Callback):
    """Tells, gauge-free and ahead of time, when training is about to change phase.

    Copies the parameters every ``every_n_steps`` optimiser steps (and at the first and the last one),
    analyses them on a background thread, and publishes the scalars to every logger at the step at which the
    copy was made, and to ``trainer.callback_metrics`` under the same names. The trained parameters are the
    same, bit for bit, as without the callback; an error of its own becomes one warning.

    Under DDP rank zero does the work. Under ``FSDPStrategy``, ``ModelParallelStrategy`` (FSDP2) and stage 3 of
    ``DeepSpeedStrategy`` every rank watches blocks of the model and rank zero publishes, without curvature: see
    :class:`~shockwatch.engine.sharded.ShardedEngine`.

    Args:
        every_n_steps: optimiser steps between snapshots, at least.
        budget: share of the training time the analysis may take, in (0, 1]; spaces the probes, the first included, and
            the snapshots where they alone would take more than half of it; no snapshot where it is 1 or ``probe`` a
            number. Ten seconds of it may be spent at once.
        horizon: steps ahead a transition counts as near.
        probe: ``"auto"`` (as the budget allows), ``"off"``, or every how many snapshots the curvature
            is measured.
        alerts: ``"default"``, alert rules, or the path of a YAML file of rules.
        seed: of the analysis' own random numbers.
        shutdown_timeout: seconds that the end of ``fit`` waits for the analysis at most; what is not done by then
            is given up, and a warning states how many snapshots. After an exception it is 30 at most.
        loss_fn: ``loss_fn(module, batch) -> scalar`` for the probes; by default the module's
            ``training_step``, run on a private copy. With manual optimisation it is required for curvature: without
            it the losses given to ``manual_backward`` show the symmetries, and no more.
        symmetries: groups stated by hand, for kernels the analysis cannot read; see ``shockwatch.symmetry.Declared``.
        on_alert: called with every alert, on the main thread of rank zero; an exception of its own is only
            reported. Alerts also go to Python logging, TensorBoard's texts, ``shockwatch/alerts.jsonl`` in the
            run folder, and the alerts of a ``WandbLogger``.
        false_alarms: change points (``phase/changepoint``) in 10,000 steps of stationary noise; holds within a
            factor of two, also for noise with memory. At most one in 50 snapshots.
        memory: ``"full"`` keeps points of the path, ``"sketch"`` sketches of it, at most 5 % of the parameters'
            size; ``"auto"`` sketches where free memory is short.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        budget: float = 0.02,
        horizon: int = 200,
        probe: Probe = "auto",
        alerts: Alerts = "default",
        seed: int = 0,
        loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
        symmetries: Sequence[Declared] = (),
        shutdown_timeout: float = 300.0,
        on_alert: Sink | None = None,
        false_alarms: float = 1.0,
        memory: Memory = "auto",
    ) -> None:
        self.settings = Settings(
            every_n_steps, budget, horizon, probe, seed, symmetries, shutdown_timeout, false_alarms, memory
        )
        if loss_fn is not None and not callable(loss_fn):
            raise ValueError(f"loss_fn={loss_fn!r}: must be callable as loss_fn(module, batch), or None")
        if on_alert is not None and not callable(on_alert):
            raise ValueError(f"on_alert={on_alert!r}: must be callable as on_alert(alert), or None")
        self._rules = alerts
        self._loss_fn = loss_fn
        self._manager = AlertManager(alerts)
        self._publisher = Publisher(on_alert)
        self._clock = TrainingClock()
        self._session: Session | None = None
        self._trainer: Trainer | None = None
        self._ranks: Ranks | None = None
        self._analysis_state: dict[str, Any] | None = None
        self._broken = False
        self._watching = False
        self._batch: Any = None
        self._has_batch = False
        self._outputs: Any = None
        self._seen_step = 0
        self._axis = 0

    @property
    def alerts(self) -> list[Alert]:
        """All alerts so far; the same on every rank at every ``every_n_steps``-th step."""
        return self._publisher.alerts

    @property
    def values(self) -> dict[str, float]:
        """Latest value of every tag."""
        return self._publisher.values

    @property
    def every_n_steps(self) -> int:
        """Optimiser steps between snapshots."""
        return self.settings.every_n_steps

    def subscribe(self, listener: Callable[[Update], None]) -> Callable[[], None]:
        """Call ``listener`` on the main thread with every update, in step order.

        Returns:
            A function that ends the subscription.
        """
        self._publisher.listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._publisher.listeners:
                self._publisher.listeners.remove(listener)

        return unsubscribe

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new run is watched even if the last one could not be."""
        self._broken = False

    @never_raises
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a run, or go on with one that was interrupted."""
        self._release()
        if trainer.global_step == 0:
            self._reset()
        self._ranks = joined(trainer)
        self._watching = self._can_watch(trainer)
        if self._ranks is not None:
            self._ranks.begin(trainer.global_step, self._analysis_state is None)
        self._seen_step = trainer.global_step
        if self._watching:
            self._trainer = trainer
            self._clock.listen([_inner(optimizer) for optimizer in trainer.optimizers])
            self._publisher.describe_charts(trainer)
        self._publisher.republish(trainer)

    @never_raises
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep a private copy of the first batch, before the step may change it in place."""
        if self._watching and self._session is None and not self._has_batch and not reads_iterator(pl_module):
            self._batch = private_batch(batch)
            self._has_batch = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a snapshot if the optimiser stepped and one is due; publish what became ready."""
        step = trainer.global_step
        due = self._ranks is not None and self._ranks.due(step, self.every_n_steps)
        self._after_batch(trainer, pl_module, outputs, step)
        # outside the guard: ranks must meet even if this one's watch has failed
        if due and self._ranks is not None:
            self._ranks.excuse(step)
        if step % self.every_n_steps == 0:
            self._share(trainer)

    @never_raises
    def _after_batch(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, step: int) -> None:
        if self._watching and step > self._seen_step:
            first = self._session is None
            if first:
                self._session = self._open(pl_module)
            crossed = step // self.every_n_steps > self._seen_step // self.every_n_steps
            self._seen_step, self._axis = step, _axis(trainer)
            self._outputs = outputs
            if crossed or (first and self._analysis_state is None):
                self._take(trainer)
        self._publish(trainer)

    @never_raises
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish before monitoring callbacks look."""
        self._publish(trainer)
        self._publisher.republish(trainer)

    @never_raises
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish before monitoring callbacks look."""
        if is_fitting(trainer) and not trainer.sanity_checking:
            self._publisher.republish(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the last snapshot and wait for the analysis: nothing accepted is lost."""
        self._at_end(trainer)
        if self._ranks is not None and not _averages(trainer):
            self._ranks.excuse(trainer.global_step, last=True)
        self._share(trainer)

    @never_raises
    def _at_end(self, trainer: Trainer) -> None:
        if (
            self._session is not None
            and self._session.last_step != self._seen_step
            and not _averages(trainer)
        ):
            self._take(trainer, last=True)
        self._finish(trainer, None)

    @never_raises
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shut down, should the end of training not have done it."""
        self._finish(trainer, None)

    @never_raises
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Publish what is known about a run that dies, and shut down (teardown does not run then)."""
        self._finish(trainer, self._impatient)

    @never_raises
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Shut down, should nothing else have done it."""
        self._finish(trainer, self._impatient)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: plain types and tensors.

        Waits up to ten seconds for the snapshots in work, so that a run that dies right after is resumed without a
        gap; the wait counts as overhead.
        """
        self.catch_up()
        return {
            "clock": self._clock.state_dict(),
            "rules": self._manager.state_dict(),
            "published": self._publisher.state_dict(),
            "analysis": self._session.state if self._session is not None else self._analysis_state,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; one that cannot be read is reported, and the watch starts afresh."""
        try:
            self._clock.load_state_dict(state_dict["clock"])
            self._manager.load_state_dict(state_dict["rules"])
            self._publisher.load_state_dict(state_dict["published"])
            self._analysis_state = state_dict["analysis"]
        except Exception as error:
            self._reset()
            session.warn(
                f"shockwatch: the checkpoint's state could not be read ({type(error).__name__}: {error}); "
                "the watch starts afresh."
            )

    @property
    def _impatient(self) -> float:
        return min(session.ERROR_TIMEOUT, self.settings.shutdown_timeout)

    @never_raises
    def catch_up(self) -> None:
        """Publish all that was taken so far, if it is ready within ten seconds."""
        if self._session is not None and self._trainer is not None:
            self._session.settle(session.CHECKPOINT_TIMEOUT)
            self._publish(self._trainer)

    def _reset(self) -> None:
        """Forget a former run."""
        self._manager = AlertManager(self._rules)
        self._publisher.reset()
        self._analysis_state = None
        self._clock.stop()
        self._clock = TrainingClock()
        self._broken = False

    def _release(self) -> None:
        """End the worker without publishing."""
        self._clock.stop()
        self._batch, self._has_batch, self._watching = None, False, False
        self._trainer = self._outputs = None
        if self._session is not None:
            self._session.close(self._impatient)
            self._analysis_state = self._session.state
            self._session = None

    def _can_watch(self, trainer: Trainer) -> bool:
        return is_fitting(trainer) and (trainer.is_global_zero or self._ranks is not None)

    def _open(self, pl_module: LightningModule) -> Session:
        batch, self._batch = self._batch, None
        settings, ranks, trainer = self.settings, self._ranks, pl_module.trainer

        def loss() -> tuple[Callable[[nn.Module, Any], Tensor] | None, bool]:
            return (self._loss_fn, True) if self._loss_fn is not None else watched_loss(pl_module, has_batch)

        def build() -> Analysis:
            if ranks is not None:
                return sharded_analysis(ranks, trainer, pl_module, lambda: loss()[0], batch, settings)
            loss_fn, curved = loss()
            probe = curved and settings.probe != "off"
            return session.build_engine(private_module(pl_module), loss_fn, batch, settings, probe)

        has_batch = self._has_batch
        return Session(settings, self._manager, pl_module, build, self._analysis_state, ranks)

    def _take(self, trainer: Trainer, last: bool = False) -> None:
        if self._session is not None:
            loss = _loss(self._outputs, trainer)
            self._session.take(self._seen_step, self._axis, self._clock, loss, last)

    def _publish(self, trainer: Trainer) -> None:
        if self._session is None:
            return
        start = time.perf_counter()
        updates = self._session.collect(self._seen_step)
        if not trainer.is_global_zero:
            # all ranks find the same; one says it
            return
        if updates or self._publisher.unwritten:
            self._publisher.publish(trainer, updates)
            self._session.charge(time.perf_counter() - start)

    def _share(self, trainer: Trainer) -> None:
        """Give every rank the alerts of rank zero: a collective."""
        if trainer.world_size > 1 and is_fitting(trainer):
            self._publisher.alerts = list(trainer.strategy.broadcast(self._publisher.alerts))

    def _finish(self, trainer: Trainer, timeout: float | None) -> None:
        self._clock.stop()
        if self._session is None:
            return
        self._session.close(timeout)
        self._publish(trainer)
        self._analysis_state = self._session.state
        self._session = self._trainer = self._outputs = None
        self._watching = False
        self._publisher.republish(trainer)


def _inner(optimizer: Any) -> Optimizer:
    inner: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def _axis(trainer: Trainer) -> int:
    """The x at which Lightning itself logs this batch (LearningRateMonitor's, too)."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def _loss(outputs: Any, trainer: Trainer) -> Tensor | float | None:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    if not isinstance(loss, Tensor):
        return None
    # Lightning has divided it
    return loss.detach() * trainer.accumulate_grad_batches


def _averages(trainer: Trainer) -> bool:
    """Whether a callback puts averaged weights into the module when training ends."""
    names = {kind.__name__ for callback in trainer.callbacks for kind in type(callback).__mro__}  # type: ignore[attr-defined]
    return not names.isdisjoint(_AVERAGING)
