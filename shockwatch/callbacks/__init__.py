"""The Lightning callbacks: the only place that knows Lightning."""

from shockwatch.callbacks.early_stopping import ShockEarlyStopping
from shockwatch.callbacks.lr_controller import ShockLRController
from shockwatch.callbacks.shock_watch import ShockWatch

__all__ = ["ShockEarlyStopping", "ShockLRController", "ShockWatch"]
