"""shockwatch: watch a training run on parameter space modulo its symmetries."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shockwatch.alerts import Alert
    from shockwatch.callbacks import ShockEarlyStopping, ShockLRController, ShockWatch
    from shockwatch.monitor import ShockMonitor

__version__ = "0.1.0"

__all__ = ["Alert", "ShockEarlyStopping", "ShockLRController", "ShockMonitor", "ShockWatch"]

_HOMES = {
    "Alert": "shockwatch.alerts",
    "ShockEarlyStopping": "shockwatch.callbacks",
    "ShockLRController": "shockwatch.callbacks",
    "ShockMonitor": "shockwatch.monitor",
    "ShockWatch": "shockwatch.callbacks",
}


def __getattr__(name: str) -> Any:
    # On first use: a plain PyTorch loop and the command line must not pay for importing Lightning.
    if name not in _HOMES:
        raise AttributeError(f"module 'shockwatch' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
