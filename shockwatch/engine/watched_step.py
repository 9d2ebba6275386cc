"""The training step as the analysis sees it: traced once, its symmetries measured at the first snapshot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shockwatch.engine.sources import no_sources_kept
from shockwatch.errors import warn
from shockwatch.snapshot import State
from shockwatch.symmetry import Declared, Quotient, quotient_of
from shockwatch.tracing import LossFunction, StepLoss, Trace, TraceError, trace_step

# Up to this many parameters curvature is computed in float64, whatever the model's type: it costs little there.
# Above it a float32 product takes half the time and half the memory of the Krylov basis: on 300k parameters the ends
# of the spectrum agree with those in float64 to better than 1e-4, far below the Lanczos tolerance of 1e-2.
_FLOAT64_PARAMETERS = 100_000
_LONG = 0.02  # seconds: what takes so long is timed once


class WatchedStep:
    """The quotient a run is watched on, and the loss to be probed, where there is one.

    Args:
        model: a private copy of the model.
        batch: a private copy of a batch.
        trace: the traced step; ``None``: raw parameters only.
        seed: of the random numbers that verify the groups.
        probe: whether curvature will be asked for.
        declared: groups stated by hand.

    Attributes:
        model: as given.
        device: where its parameters live.
        frozen: copies of the tensors that do not train.
        dtype: the type curvature is computed in; ``None``: that of the model. Known once the quotient is.
        loss: ``None`` where there is nothing to probe. Known once the quotient is.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any,
        trace: Trace | None,
        seed: int,
        *,
        probe: bool,
        declared: Sequence[Declared] = (),
    ) -> None:
        self.model = model
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.frozen = {
            name: tensor.detach().clone()
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if not (isinstance(tensor, nn.Parameter) and tensor.requires_grad)
        }
        self.dtype: torch.dtype | None = None
        self.loss: StepLoss | None = None
        self._batch = batch
        self._trace = trace
        self._seed = seed
        self._probes = probe
        self._declared = _fitting(declared, model, trace)
        self._quotient: Quotient | None = None
        self._errors: list[Exception] = []

    @classmethod
    def build(
        cls,
        model: nn.Module,
        loss_fn: LossFunction | None,
        batch: Any,
        seed: int,
        *,
        probe: bool,
        declared: Sequence[Declared] = (),
    ) -> WatchedStep:
        """Trace the step on fake tensors; one that cannot be traced, or probed, costs one warning."""
        trace = None
        if loss_fn is not None:
            try:
                with no_sources_kept():
                    trace = trace_step(model, loss_fn, batch)
            except TraceError as error:
                warn(f"shockwatch: {error}. Raw parameters only are watched: no symmetries, no curvature.")
        if trace is not None and trace.draws_random_numbers:
            warn(
                "shockwatch: the training step draws random numbers even in evaluation mode, so its loss cannot "
                "be probed. Raw parameters only are watched: no symmetries, no curvature; pass loss_fn= without "
                "the random part."
            )
            trace = None
        step = cls(model, batch, trace, seed, probe=probe, declared=declared)
        if trace is not None and trace.replay is not None:
            # Such groups are checked by running the module, whose draws only this thread can undo.
            step.quotient()
        return step

    @property
    def traced(self) -> bool:
        """Whether symmetries and curvature are known at all."""
        return self._trace is not None

    @property
    def probes(self) -> bool:
        """Whether its curvature will be asked for, and may be known."""
        return self._probes and self._trace is not None

    @property
    def inferred(self) -> bool:
        """Whether the quotient is known."""
        return self._quotient is not None

    def quotient(self, state: State | None = None) -> Quotient:
        """The quotient the run is watched on; built at the first call.

        Args:
            state: where the groups are measured, which stays while training goes on; the live parameters if ``None``.
        """
        if self._quotient is None:
            try:
                with no_sources_kept():
                    self._quotient = self._infer(state)
            except Exception as error:
                # the raw parameters can be watched all the same
                self._errors.append(error)
                self._trace = self.loss = None
                self._quotient = self._infer(state)
        return self._quotient

    def take_errors(self) -> list[Exception]:
        """What inference raised since the last call."""
        errors, self._errors = self._errors, []
        return errors

    def _infer(self, state: State | None) -> Quotient:
        if self._trace is None:
            return Quotient((), [n for n, p in self.model.named_parameters() if p.requires_grad])
        quotient = quotient_of(self._trace, self.model, self._batch, self._seed, self._declared, state)
        small = sum(p.numel() for p in self.model.parameters()) <= _FLOAT64_PARAMETERS
        self.dtype = torch.float64 if small else None
        trace = self._trace if self.dtype is None else self._trace.in_dtype(self.dtype)
        replay = self._trace.replay
        if self._probes and (replay is None or replay.follows_parameters):
            self.loss = StepLoss(trace, self._batch)
            self.loss.compile()
        return quotient

    def time_gradient(self, state: State) -> tuple[float, float]:
        """Seconds of this thread (of the clock, on a device) that one gradient of ``loss`` takes at ``state``, and one
        inner product of two vectors as long as the parameters; zero where there is no loss."""
        loss = self.loss
        if loss is None:
            return 0.0, 0.0
        state = {n: cast(state[n], self.dtype).to(self.device) for n in loss.names}
        frozen = {n: cast(t, self.dtype) for n, t in self.frozen.items()}
        clock = time.thread_time if self.device.type == "cpu" else time.perf_counter
        gradients, products = [], []
        for _ in range(2):  # the first one warms up
            start = clock()
            _, gradient = loss.gradient(state, frozen)
            float(gradient[0].sum())  # waits for a device
            gradients.append(clock() - start)
            vector = torch.cat([part.reshape(-1) for part in gradient])
            other, start = vector.clone(), clock()
            float(vector @ other)
            products.append(clock() - start)
            if self.device.type == "cpu" and gradients[0] > _LONG:
                break
        return min(gradients), min(products)


def cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """``tensor`` in the type that curvature is computed in; integers, and all where that is the model's own, stay."""
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _fitting(declared: Sequence[Declared], model: nn.Module, trace: Trace | None) -> tuple[Declared, ...]:
    """Those of ``declared`` that can be built on the traced parameters."""
    if trace is None:
        return ()
    parameters = {n: p for n, p in model.named_parameters() if n in trace.trainable}
    fitting = []
    for declaration in declared:
        try:
            declaration.build(parameters)
        except ValueError as error:
            warn(f"shockwatch: declared {declaration.kind} {declaration.name} is ignored: {error}.")
        else:
            fitting.append(declaration)
    return tuple(fitting)
