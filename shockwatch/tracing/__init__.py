"""One training step as a pure function: an aten graph of the loss over parameters, buffers and batch."""

from shockwatch.tracing.loss import HessianProduct, StepLoss
from shockwatch.tracing.trace import Trace, TraceError, private_copy, trace_step

__all__ = ["HessianProduct", "StepLoss", "Trace", "TraceError", "private_copy", "trace_step"]
