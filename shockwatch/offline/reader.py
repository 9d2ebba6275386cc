"""One model, and what its quotient says of the checkpoints of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from shockwatch.curvature.hvp import CanonicalLoss
from shockwatch.inspection.subject import Subject
from shockwatch.offline.checkpoint import fit_to, read_checkpoint
from shockwatch.shock.probe import probe
from shockwatch.snapshot import State
from shockwatch.symmetry import Quotient, quotient_of
from shockwatch.tracing import StepLoss, Trace

# Offline there is time: double precision wherever twice the parameters still fit easily.
_FLOAT64_PARAMETERS = 10_000_000
_KEPT = 3  # the first checkpoint of a run, the one before, and the one at hand


@dataclass(frozen=True)
class Measurement:
    """One checkpoint in numbers, by tag; the tags mean what they mean during training."""

    path: Path
    step: int | None
    values: dict[str, float] = field(default_factory=dict)
    error: str | None = None


class CheckpointReader:
    """Measures checkpoints of one model on the quotient.

    Args:
        subject: the model, its loss and the batch on which loss and curvature are measured.
        trace: its step.
        seed: of the random numbers drawn here.
        precise: compute in double precision where the model is small enough; else in the model's own.

    Attributes:
        quotient: parameter space modulo the symmetries of the step.
    """

    def __init__(self, subject: Subject, trace: Trace, seed: int = 0, precise: bool = True) -> None:
        self._subject = subject
        self._seed = seed
        self.quotient: Quotient = quotient_of(trace, subject.model, subject.batch, seed)
        count = sum(p.numel() for p in subject.model.parameters())
        self._dtype = torch.float64 if precise and count <= _FLOAT64_PARAMETERS else None
        self._loss = StepLoss(trace if self._dtype is None else trace.in_dtype(self._dtype), subject.batch)

        self._kept = lru_cache(_KEPT)(self._read)

    def state(self, path: Path) -> State:
        """The parameters and buffers saved at ``path``, under the model's names, in the type used here.

        The last three are remembered: the tensors must not be changed.

        Raises:
            CheckpointError: if the file cannot be read or does not fit the model.
        """
        return self._kept(path)

    def _read(self, path: Path) -> State:
        saved = fit_to(self._subject.model, read_checkpoint(path))
        return {name: self._cast(tensor) for name, tensor in saved.items()}

    def loss(self, state: State) -> float:
        """The loss at ``state``."""
        return self._loss.value(state, self._frozen(state))

    def measure(self, state: State, curvature: bool = True) -> dict[str, float]:
        """Loss, norms, blocks and (``curvature``) the ends of the spectrum of the reduced Hessian at ``state``."""
        canonical = self.quotient.canonicalize(state)
        values = {
            "loss": self.loss(state),
            "quotient/norm": self.quotient.norm(canonical),
            "raw/norm": self.quotient.norm(state),
            **self.quotient.invariants(canonical),
        }
        if curvature:
            reduced = CanonicalLoss(self.quotient, self._loss, canonical, self._frozen(state))
            seen = probe(reduced, None, torch.Generator().manual_seed(self._seed))
            values["shock/lambda_min"], values["shock/lambda_max"] = seen.lambda_min, seen.lambda_max
            values["shock/time"] = -1.0 / seen.lambda_min if seen.unstable else math.inf
        return values

    def _frozen(self, state: State) -> State:
        model = self._subject.model
        named = (*model.named_parameters(), *model.named_buffers())
        return {name: self._cast(tensor.detach()) for name, tensor in named if name not in state}

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._dtype) if self._dtype is not None and tensor.is_floating_point() else tensor
