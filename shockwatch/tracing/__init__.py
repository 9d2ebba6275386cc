"""One training step as a pure function: an aten graph of the loss over parameters, buffers and batch."""

from shockwatch.tracing.epsilon import without_epsilon
from shockwatch.tracing.fewer import FewerSamples, chooses, enough_samples
from shockwatch.tracing.loss import HessianProduct, StepLoss
from shockwatch.tracing.step import LossFunction
from shockwatch.tracing.trace import Replay, Trace, TraceError, trace_step

__all__ = [
    "FewerSamples",
    "HessianProduct",
    "LossFunction",
    "Replay",
    "StepLoss",
    "Trace",
    "TraceError",
    "chooses",
    "enough_samples",
    "trace_step",
    "without_epsilon",
]
