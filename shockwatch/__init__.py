"""shockwatch: watch a training run on parameter space modulo its symmetries."""

from shockwatch.alerts import Alert
from shockwatch.callbacks import ShockEarlyStopping, ShockLRController, ShockWatch
from shockwatch.monitor import ShockMonitor

__version__ = "0.1.0"

__all__ = ["Alert", "ShockEarlyStopping", "ShockLRController", "ShockMonitor", "ShockWatch"]
