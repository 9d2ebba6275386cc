"""The same watch for the ``Trainer`` of the ``transformers`` package (optional: ``pip install transformers``)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shockwatch.alerts import Alert, Rule
from shockwatch.budget import Probe
from shockwatch.errors import warn
from shockwatch.guard import never_raises
from shockwatch.monitor import ShockMonitor
from shockwatch.replica import private_batch
from shockwatch.session import LossFunction
from shockwatch.tensorboard import open_writer

_STATE_FILE = "shockwatch.pt"


class ShockTrainerCallback(TrainerCallback):  # type: ignore[misc]
    """Watches a ``transformers.Trainer``; tags and alerts are those of ``ShockWatch``.

    Scalars and texts go to ``writer``, by default to ``<output_dir>/runs/shockwatch``; what a resumed run needs is
    saved in each checkpoint folder as ``shockwatch.pt``. The trained parameters are the same, bit for bit, as
    without the callback. Sharded training (FSDP, DeepSpeed) is not watched; one warning says so.

    Args:
        loss_fn: ``loss_fn(model, inputs) -> scalar`` for the probes, with the keyword arguments of the model's
            forward as ``inputs``; by default the loss the model itself returns.
        writer: a ``SummaryWriter`` (or alike) to use instead of one of its own.
        every_n_steps, budget, horizon, probe, alerts, seed: as for ``ShockWatch``.

    Attributes:
        alerts: all alerts so far.
        values: latest value of every tag.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        loss_fn: LossFunction | None = None,
        writer: Any | None = None,
        *,
        every_n_steps: int = 50,
        budget: float = 0.02,
        horizon: int = 200,
        probe: Probe = "auto",
        alerts: Literal["default"] | Sequence[Rule] = "default",
        seed: int = 0,
    ) -> None:
        self._options: dict[str, Any] = {
            "every_n_steps": every_n_steps,
            "budget": budget,
            "horizon": horizon,
            "probe": probe,
            "alerts": alerts,
            "seed": seed,
        }
        self._loss_fn = returned_loss if loss_fn is None else loss_fn
        # Wrong options must fail here, not in the first step.
        parameter = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(parameter.parameters(), 1.0)
        ShockMonitor(parameter, self._loss_fn, optimizer, writer=writer, **self._options).close()
        self._writer = writer
        self._broken = False
        self._monitor: ShockMonitor | None = None
        self._hook: RemovableHandle | None = None
        self._inputs: Mapping[str, Any] | None = None
        self._loss: Tensor | None = None
        self._own = contextlib.ExitStack()

    @property
    def alerts(self) -> list[Alert]:
        """All alerts so far."""
        return [] if self._monitor is None else self._monitor.alerts

    @property
    def values(self) -> dict[str, float]:
        """Latest value of every tag."""
        return {} if self._monitor is None else self._monitor.values

    @never_raises
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a run, or go on with one whose checkpoint has our state."""
        self._release()
        self._monitor = None
        if not state.is_world_process_zero:
            return
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            warn("shockwatch: sharded parameters (FSDP, DeepSpeed) are not watched yet.")
            return
        writer = self._writer
        if writer is None:
            writer = self._own.enter_context(open_writer(str(_output(args) / "runs" / "shockwatch")))
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        self._monitor = ShockMonitor(
            model,
            self._loss_fn,
            getattr(optimizer, "optimizer", optimizer),
            writer=writer,
            first_step=state.global_step + 1,
            **self._options,
        )
        if state.global_step:
            self._resume(_folder(args, state) / _STATE_FILE)
        self._listen(model)

    @never_raises
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count one optimiser step."""
        if self._monitor is None or self._inputs is None:
            return
        first = self._hook is None
        self._monitor.step(self._inputs, self._loss)
        if first:
            # Private copies of the model are made in the first step: a hook of ours must not be among them.
            self._listen(kwargs["model"])

    @never_raises
    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave what a resumed run needs in the checkpoint's folder."""
        folder = _folder(args, state)
        if self._monitor is not None and folder.is_dir():
            torch.save(self._monitor.state_dict(), folder / _STATE_FILE)

    @never_raises
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait for the analysis and publish the rest."""
        self._release()

    def _listen(self, model: nn.Module) -> None:
        self._hook = model.register_forward_hook(self._after_forward, with_kwargs=True)

    def _after_forward(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        if not model.training or self._broken:
            return
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        self._loss = loss.detach() if isinstance(loss, Tensor) else None
        if self._inputs is None:
            self._inputs = private_batch(dict(kwargs))
            if self._hook is not None:
                self._hook.remove()
                self._hook = None

    def _resume(self, file: Path) -> None:
        if self._monitor is None or not file.is_file():
            return
        try:
            self._monitor.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:
            warn(
                f"shockwatch: {file} cannot be used, the watch begins anew ({type(error).__name__}: {error})"
            )

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._inputs, self._loss = None, None, None
        if self._monitor is not None:
            self._monitor.close()
        self._own.close()


def returned_loss(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """The loss a model of the ``transformers`` package returns when the inputs hold labels.

    Raises:
        ValueError: if it returns none.
    """
    loss = model(**inputs).loss
    if loss is None:
        raise ValueError("the model returns no loss for these inputs: pass loss_fn=")
    result: Tensor = loss
    return result


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return _output(args) / f"checkpoint-{state.global_step}"


def _output(args: TrainingArguments) -> Path:
    return Path(args.output_dir or ".")
