"""A private copy of a LightningModule whose ``training_step`` has no side effect, and its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from shockwatch.replica import private_copy, unsharded_copy
from shockwatch.session import LossFunction, warn
from shockwatch.shards import Shard

_SILENT = (
    "log",
    "log_dict",
    "log_grad_norm",
    "print",
    "toggle_optimizer",
    "untoggle_optimizer",
    "toggled_optimizer",
    "all_gather",
)
_FORBIDDEN = ("manual_backward", "clip_gradients", "lr_scheduler_step")
_GOLDEN = 0.6180339887498949
_COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")


class _Nothing:
    """Answers every attribute and every call with itself: a logger nobody reads."""

    def __getattr__(self, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *args: object) -> None:
        return None


class _OptimizerView:
    """The options of an optimiser (a ``training_step`` may log its learning rate); it cannot step.

    Under manual optimisation stepping is part of the ``training_step``: there it does nothing.
    """

    def __init__(self, optimizer: Any, manual: bool) -> None:
        self.param_groups = [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        self.optimizer = self
        self.toggle_model = _Nothing()
        self.step = _run_closure if manual else _forbid("optimizers().step")
        self.zero_grad = _Nothing() if manual else _forbid("optimizers().zero_grad")


class _SchedulerView:
    """The last learning rates of a scheduler; it cannot step."""

    def __init__(self, scheduler: Any, manual: bool) -> None:
        self._rates = list(getattr(scheduler, "_last_lr", []))
        self.step = _Nothing() if manual else _forbid("lr_schedulers().step")

    def get_last_lr(self) -> list[Any]:
        return self._rates


class _TrainerView:
    """The numbers a ``training_step`` may read off its trainer, frozen; it cannot act on the run."""

    def __init__(self, trainer: Trainer, manual: bool) -> None:
        self.current_epoch = trainer.current_epoch
        self.global_step = trainer.global_step
        self.max_epochs = trainer.max_epochs
        self.max_steps = trainer.max_steps
        self.num_training_batches = trainer.num_training_batches
        self.accumulate_grad_batches = trainer.accumulate_grad_batches
        self.world_size = 1
        self.global_rank = self.local_rank = self.node_rank = 0
        self.is_global_zero = True
        self.training = True
        self.sanity_checking = self.validating = self.testing = self.predicting = False
        self.fast_dev_run = False
        self.precision = trainer.precision
        self.callback_metrics: dict[str, Tensor] = {}
        self.logged_metrics: dict[str, Tensor] = {}
        self.optimizers = [_OptimizerView(optimizer, manual) for optimizer in trainer.optimizers]
        self.schedulers = [
            _SchedulerView(config.scheduler, manual) for config in trainer.lr_scheduler_configs
        ]
        self.logger = _Nothing()
        self.loggers = [self.logger]


def private_module(module: LightningModule, layout: Mapping[str, Shard] | None = None) -> nn.Module:
    """A copy of ``module`` that shares only the parameters' storage and is detached from its trainer.

    ``self.log`` and the like do nothing on it, ``self.trainer``, ``self.optimizers()`` and
    ``self.lr_schedulers()`` are frozen views, and what would act on the optimisation raises.

    Args:
        layout: of parameters that are shared out over ranks: the copy has their shapes, but not their numbers.
    """
    view = _TrainerView(module.trainer, not module.automatic_optimization)
    frozen = {id(module.trainer): view}
    replica = private_copy(module, frozen) if layout is None else unsharded_copy(module, layout, frozen)
    for part in replica.modules():
        if isinstance(part, LightningModule):
            _silence(part, view)
        elif "validate_args" in vars(part):
            # torchmetrics: its checks read values off the tensors, which a trace does not have
            vars(part)["validate_args"] = False
    return replica


def watched_loss(module: LightningModule, has_batch: bool) -> tuple[LossFunction | None, bool]:
    """The loss to be watched where the user gives none, and whether its curvature means something; warns if not."""
    if not has_batch:
        warn(
            "shockwatch: the loss of a training_step that reads the iterator cannot be found, and raw parameters "
            "only are watched; pass ShockWatch(loss_fn=...)."
        )
        return None, False
    if module.automatic_optimization:
        return training_step_loss(module), True
    warn(
        "shockwatch: with manual optimisation symmetries are read off the losses given to manual_backward; "
        "what each optimiser minimises is not known, so there is no curvature: pass ShockWatch(loss_fn=...)."
    )
    return manual_losses(module), False


def training_step_loss(module: LightningModule) -> Callable[[nn.Module, Any], Tensor]:
    """The default ``loss_fn``: the module's own ``training_step(batch, 0)``.

    The returned function raises ``RuntimeError`` if the step returns no loss.
    """
    step = _step(module)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        output = step(model, batch)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            raise RuntimeError(f"training_step returned no loss but {type(output).__name__}; pass loss_fn=")
        return loss

    return loss_fn


def manual_losses(module: LightningModule) -> Callable[[nn.Module, Any], Tensor]:
    """A mixture of the losses that a manually optimised ``training_step`` gives to ``manual_backward``.

    Weights are fixed and unequal, so that a symmetry of the mixture is one of every loss. Nobody minimises it: it
    shows symmetries, not curvature. The optimisers do not step in between.

    The returned function raises ``RuntimeError`` if there is no such loss.
    """
    step = _step(module)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        losses: list[Tensor] = []
        vars(model)["manual_backward"] = lambda loss, *args, **kwargs: losses.append(loss)
        vars(model)["clip_gradients"] = _Nothing()
        step(model, batch)
        if not losses:
            raise RuntimeError("training_step gives no loss to self.manual_backward(); pass loss_fn=")
        weighted = [loss / (1 + _GOLDEN * number) for number, loss in enumerate(losses)]
        return sum(weighted[1:], weighted[0])

    return loss_fn


def _step(module: LightningModule) -> Callable[[nn.Module, Any], Any]:
    """How to call ``training_step`` of a copy of ``module`` on a batch."""
    parameters = list(inspect.signature(module.training_step).parameters.values())
    named = {parameter.name for parameter in parameters}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variadic = any(parameter.kind == parameter.VAR_POSITIONAL for parameter in parameters)
    with_index = "batch_idx" in named or len(positional) >= 2 or variadic

    def call(model: nn.Module, batch: Any) -> Any:
        step: Callable[..., Any] = model.training_step  # type: ignore[assignment]
        return step(batch, 0) if with_index else step(batch)

    return call


def reads_iterator(module: LightningModule) -> bool:
    """Whether ``training_step`` takes the data iterator itself instead of a batch."""
    return "dataloader_iter" in inspect.signature(module.training_step).parameters


def _silence(part: LightningModule, view: _TrainerView) -> None:
    attributes = vars(part)
    attributes["_trainer"] = view
    if attributes.get("_compiler_ctx") is not None:
        # a compiled module carries bound methods of the live one
        for name in _COMPILED:
            attributes.pop(name, None)
        attributes["_compiler_ctx"] = None
    for name in _SILENT:
        attributes[name] = _first_argument if name == "all_gather" else _Nothing()
    attributes["optimizers"] = lambda use_pl_optimizer=True: _one_or_all(view.optimizers)
    attributes["lr_schedulers"] = lambda: _one_or_all(view.schedulers) if view.schedulers else None
    for name in _FORBIDDEN:
        attributes[name] = _forbid(name)


def _run_closure(closure: Callable[[], Any] | None = None, **options: Any) -> Any:
    return None if closure is None else closure()


def _one_or_all(views: list[Any]) -> Any:
    """As Lightning answers: the object if there is one, else the list."""
    return views[0] if len(views) == 1 else views


def _first_argument(data: Any, *args: Any, **kwargs: Any) -> Any:
    return data


def _forbid(name: str) -> Callable[..., NoReturn]:
    def forbidden(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(
            f"training_step calls self.{name}(), which a private copy cannot do; pass loss_fn="
        )

    return forbidden
