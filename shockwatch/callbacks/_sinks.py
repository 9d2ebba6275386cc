"""The alert sinks that a trainer brings along."""

from __future__ import annotations

import os
import re
from functools import partial

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from shockwatch.alerts import Alert, JsonLines, Severity, Sink, to_logging

_WANDB_LEVELS: dict[Severity, str] = {"info": "INFO", "warning": "WARN", "critical": "ERROR"}


def sinks_of(trainer: Trainer, on_alert: Sink | None) -> dict[str, Sink]:
    """Python logging, the run folder, every ``WandbLogger`` and ``MLFlowLogger``, and the user's own.

    TensorBoard gets texts apart.
    """
    sinks: dict[str, Sink] = {"logging": to_logging}
    if (folder := run_folder(trainer)) is not None:
        sinks["JSON lines"] = JsonLines(folder)
    for number, logger in enumerate(trainer.loggers):
        if isinstance(logger, WandbLogger):
            sinks[f"WandbLogger {number}"] = partial(_to_wandb, logger)
        elif isinstance(logger, MLFlowLogger):
            sinks[f"MLFlowLogger {number}"] = partial(_to_mlflow, logger)
    if on_alert is not None:
        sinks["on_alert"] = on_alert
    return sinks


def run_folder(trainer: Trainer) -> str | None:
    """The folder of the first logger that has one, else the trainer's root.

    None where it is not local, and where none was chosen: the root is then the current directory, which nobody
    asked to be written into.
    """
    # trainer.log_dir is a collective: only rank zero comes here
    own = (getattr(logger, "log_dir", None) for logger in trainer.loggers)
    folder = next(
        (str(path) for path in own if isinstance(path, (str, os.PathLike))), str(trainer.default_root_dir)
    )
    return None if "://" in folder or folder == os.getcwd() else folder


def _to_wandb(logger: WandbLogger, alert: Alert) -> None:
    title = f"shockwatch: {alert.name}"
    logger.experiment.alert(
        title=title, text=f"step {alert.step}: {alert.message}", level=_WANDB_LEVELS[alert.severity]
    )


def _to_mlflow(logger: MLFlowLogger, alert: Alert) -> None:
    """As a tag of the run: the only text there that needs no artifact store."""
    name = re.sub(r"[^\w .:-]", "", alert.name, flags=re.ASCII)
    logger.experiment.set_tag(
        logger.run_id, f"shockwatch.alert.{alert.step}.{name}", f"{alert.severity}: {alert.message}"
    )
