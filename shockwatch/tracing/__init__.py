"""One training step as a pure function: an aten graph of the loss over parameters, buffers and batch."""

from shockwatch.tracing.loss import HessianProduct, StepLoss
from shockwatch.tracing.trace import Trace, TraceError, trace_step

__all__ = ["HessianProduct", "StepLoss", "Trace", "TraceError", "trace_step"]
