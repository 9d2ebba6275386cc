"""From one snapshot to its scalars: the analysis that runs on the background thread."""

from __future__ import annotations

import linecache
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import graph_module

from shockwatch.capture import named_state
from shockwatch.curvature import CanonicalLoss, with_weight_decay
from shockwatch.errors import warn
from shockwatch.figures import Album
from shockwatch.observables import OBSERVABLES, Point
from shockwatch.phase import PhaseIndicators
from shockwatch.shock.indicators import ShockIndicators
from shockwatch.shock.probe import Probe
from shockwatch.shock.probe import probe as probe_point
from shockwatch.shock.residual import burgers_residual
from shockwatch.shock.trajectory import TrajectoryForecaster
from shockwatch.snapshot import Observation, Picture, Snapshot, State
from shockwatch.symmetry import Declared, Quotient, quotient_of
from shockwatch.symmetry.order import UnitOrder
from shockwatch.tracing import LossFunction, StepLoss, Trace, TraceError, trace_step

# Up to this many parameters curvature is computed in float64, whatever the model's type: it costs little there.
# Above it a float32 product takes half the time and half the memory of the Krylov basis: on 300k parameters the ends
# of the spectrum agree with those in float64 to better than 1e-4, far below the Lanczos tolerance of 1e-2.
_FLOAT64_PARAMETERS = 100_000
# Relative accuracy of the extreme eigenvalues, for models in double and in single precision.
_TIGHT, _LOOSE = 1e-9, 1e-2
# A move by this share of the norm between two snapshots asks for a new matching of units.
_JUMP = 0.3


class Engine:
    """Quotient, observables and indicators of one run; snapshots come in step order.

    Holds two copies of the parameters (the last snapshot, raw and canonical) and one of the start.
    Built on the main thread by :meth:`build`; the verification of the symmetry groups waits for the first
    snapshot, on the thread that processes it.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any,
        trace: Trace | None,
        horizon: int,
        seed: int,
        *,
        probe: bool = True,
        declared: Sequence[Declared] = (),
        mean_run_length: float = 1000.0,
    ) -> None:
        self._model = model
        self._batch = batch
        self._trace = trace
        self._seed = seed
        self._probes = probe
        self._declared = declared
        self._frozen = {
            name: tensor.detach().clone()
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if not (isinstance(tensor, nn.Parameter) and tensor.requires_grad)
        }
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._dtype: torch.dtype | None = None
        self._quotient: Quotient | None = None
        self._described = False
        self._loss: StepLoss | None = None
        self._errors: list[Exception] = []
        self._observables = [make() for make in OBSERVABLES]
        self._shock = ShockIndicators(horizon)
        self._trajectory = TrajectoryForecaster()
        self._phase = PhaseIndicators(mean_run_length=mean_run_length)
        self._album = Album()
        self._generator = torch.Generator().manual_seed(seed)
        # The first canonical point has its units in order of size, later snapshots in that of the model.
        self._order = UnitOrder()
        self._resumed: tuple[int, float, State, State] | None = None
        self._previous: Point | None = None
        self._gradient: tuple[Tensor, State] | None = None
        self._warm_start: Any = None

    @classmethod
    def build(
        cls,
        model: nn.Module,
        loss_fn: LossFunction | None,
        batch: Any,
        *,
        horizon: int,
        seed: int,
        probe: bool,
        declared: Sequence[Declared] = (),
        mean_run_length: float = 1000.0,
    ) -> Engine:
        """Trace the step on fake tensors and make the engine; a step that cannot be traced costs one warning.

        Args:
            model: a private copy of the model.
            loss_fn: ``loss_fn(model, batch) -> scalar tensor``; ``None``: no symmetries and no curvature.
            batch: a private copy of a batch.
            horizon: steps ahead that count as near.
            seed: of every random number drawn here.
            probe: whether curvature will be asked for.
            declared: groups stated by hand; one that does not fit the model costs a warning.
            mean_run_length: snapshots of stationary noise per false change point.
        """
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
        engine = cls(
            model,
            batch,
            trace,
            horizon,
            seed,
            probe=probe,
            declared=_fitting(declared, model, trace),
            mean_run_length=mean_run_length,
        )
        if trace is not None and trace.replay is not None:
            # Such groups are checked by running the module, whose draws only this thread can undo.
            _ = engine.quotient
        return engine

    @property
    def quotient(self) -> Quotient:
        """The quotient the run is watched on; built at the first call, from the live parameters."""
        return self._inferred(None)

    def _inferred(self, state: State | None) -> Quotient:
        """The quotient; measured at ``state``, which stays while training goes on, where there is one."""
        if self._quotient is None:
            try:
                with no_sources_kept():
                    self._quotient = self._infer(state)
            except Exception as error:
                # the raw parameters can be watched all the same
                self._errors.append(error)
                self._trace = self._loss = None
                self._quotient = self._infer(state)
        return self._quotient

    def _infer(self, state: State | None) -> Quotient:
        if self._trace is None:
            return Quotient((), [n for n, p in self._model.named_parameters() if p.requires_grad])
        quotient = quotient_of(self._trace, self._model, self._batch, self._seed, self._declared, state)
        small = sum(p.numel() for p in self._model.parameters()) <= _FLOAT64_PARAMETERS
        self._dtype = torch.float64 if small else None
        trace = self._trace if self._dtype is None else self._trace.in_dtype(self._dtype)
        replay = self._trace.replay
        if self._probes and (replay is None or replay.follows_parameters):
            self._loss = StepLoss(trace, self._batch)
        return quotient

    def process(self, snapshot: Snapshot, probe: bool) -> Observation:
        """All scalars of one snapshot; with ``probe`` those of curvature too.

        An observable that raises, or the probe, costs its own values and no others.
        """
        quotient = self._quotient
        if quotient is None:
            quotient = self._inferred({n: t.to(self._device) for n, t in snapshot.state.items()})
        notes = () if self._described else _describe(quotient, self._trace is not None)
        self._described = True
        values: dict[str, float] = {}
        pictures: tuple[Picture, ...] = ()
        errors, self._errors = self._errors, []
        finite = all(bool(torch.isfinite(snapshot.state[n]).all()) for n in quotient.names)
        if finite:
            point = self._point(quotient, snapshot)
            previous = self._previous
            # before anything can fail: the next snapshot measures its way from here
            self._previous = point
            for observable in self._observables:
                try:
                    values.update(observable.compute(point, previous))
                except Exception as error:
                    errors.append(error)
            try:
                speed = values.get("quotient/speed", math.nan)
                values["shock/trajectory_steps"] = self._trajectory_steps(point, previous, speed)
            except Exception as error:
                errors.append(error)
            if probe and self._loss is not None:
                try:
                    viscosity = values.get("quotient/viscosity", math.nan)
                    seen, shock, news = self._probe(point, snapshot, viscosity)
                    values.update(shock)
                    notes += news
                    pictures, news = self._album.see(
                        shock,
                        seen.slice,
                        self._shock.scored,
                        quotient,
                        point.canonical,
                        step=point.step,
                        viscosity=viscosity,
                        time_per_step=snapshot.time_per_step,
                        training_time=point.training_time,
                    )
                    notes += news
                except Exception as error:
                    errors.append(error)
        else:
            notes += ("parameters are not finite.",)
        loss = math.nan if snapshot.loss is None else snapshot.loss
        known = 0.0 if snapshot.loss is None else loss
        try:
            values.update(self._phase.update(snapshot.step, values, loss=known, finite=finite))
        except Exception as error:
            errors.append(error)
        return Observation(
            snapshot.step, values, notes, pictures=pictures, error=errors[0] if errors else None
        )

    def _point(self, quotient: Quotient, snapshot: Snapshot) -> Point:
        resumed = self._resumed is not None
        if self._resumed is not None:
            self._previous, self._resumed = Point(*self._resumed, quotient), None
        reference = None if self._previous is None else self._previous.canonical
        raw = {name: tensor.clone() for name, tensor in snapshot.state.items()}
        canonical = quotient.canonicalize(self._order.apply(raw), reference)
        if reference is not None:
            moved = quotient.euclidean(canonical, reference)
            if resumed or moved > _JUMP * quotient.norm(reference):
                # Units changed places: training does not do that between two snapshots, a gauge change may,
                # and so does a resumed run, which has forgotten their order.
                matched, order = quotient.match_with_order(canonical, reference)
                if quotient.euclidean(matched, reference) < (moved if resumed else moved / 2):
                    canonical, self._order = matched, self._order.then(order)
        return Point(snapshot.step, snapshot.training_time, raw, canonical, quotient)

    def _probe(
        self, point: Point, snapshot: Snapshot, viscosity: float
    ) -> tuple[Probe, dict[str, float], tuple[str, ...]]:
        assert self._loss is not None
        dtype = self._dtype
        state = {n: _cast(t, dtype).to(self._device) for n, t in point.canonical.items()}
        frozen = {n: _cast(t, dtype) for n, t in self._frozen.items()}
        if dtype is not None:
            # Canonical in float32 is not quite canonical in float64.
            state = point.quotient.align(point.quotient.balance(state), state)
        plain = CanonicalLoss(point.quotient, self._loss, state, frozen)
        reduced, undecayed = with_weight_decay(plain, point.quotient, state, snapshot.weight_decay)
        said = () if self._warm_start is not None else undecayed
        # Who trains in double precision wants it: where Lanczos stops would otherwise hang on the last bit.
        double = all(point.raw[n].dtype == torch.float64 for n in point.quotient.names)
        seen = probe_point(reduced, self._warm_start, self._generator, _TIGHT if double else _LOOSE)
        self._warm_start = seen.warm_start
        values, notes = self._shock.update(
            seen,
            step=point.step,
            training_time=point.training_time,
            time_per_step=snapshot.time_per_step,
            viscosity=viscosity,
            displacement_alignment=self._alignment(point),
            residual=burgers_residual(reduced, seen, viscosity, self._generator),
        )
        values["shock/lr_lambda_max"] = snapshot.stability_rate * seen.lambda_max
        self._gradient = (reduced.gradient().cpu(), point.canonical)
        return seen, values, (*notes, *said)

    def _trajectory_steps(self, point: Point, previous: Point | None, speed: float) -> float:
        """Steps to the next transition by the path alone; ``speed`` is in parameter units per step."""
        if previous is None or math.isnan(speed):
            return math.nan
        steps = point.step - previous.step
        before = previous.training_time
        remaining, _ = self._trajectory.update(
            training_time=point.training_time, before=before, moved=speed * steps
        )
        return remaining * steps / (point.training_time - before) if math.isfinite(remaining) else math.nan

    def _alignment(self, point: Point) -> float:
        """Cosine between the displacement since the last probe and the descent direction there."""
        if self._gradient is None:
            return math.nan
        gradient, start = self._gradient
        move = point.quotient.flatten(point.canonical).double() - point.quotient.flatten(start).double()
        size = float(move.norm()) * float(gradient.norm())
        return -float(move @ gradient.double()) / size if size > 0 else math.nan

    def state_dict(self) -> dict[str, Any]:
        """What the indicators remember, in plain types and tensors."""
        return {
            "observables": {type(o).__name__: o.state_dict() for o in self._observables},
            "shock": self._shock.state_dict(),
            "trajectory": self._trajectory.state_dict(),
            "phase": self._phase.state_dict(),
            "canonical": None if self._previous is None else dict(self._previous.canonical),
            "raw": None if self._previous is None else dict(self._previous.raw),
            "clock": None if self._previous is None else [self._previous.step, self._previous.training_time],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; the run goes on as if it had not stopped.

        Raises:
            ValueError: if the state is that of another model. Whatever else is wrong with ``state`` raises
                something, too; the engine is of no use then.
        """
        for observable in self._observables:
            own = state["observables"].get(type(observable).__name__)
            if own is not None:
                observable.load_state_dict(own)
        self._shock.load_state_dict(state["shock"])
        if "trajectory" in state:  # the first releases had none
            self._trajectory.load_state_dict(state["trajectory"])
        self._phase.load_state_dict(state["phase"])
        self._generator.set_state(state["generator"])
        if state["canonical"] is None:
            return
        for part in ("raw", "canonical"):
            self._require_same_tensors(part, state[part])
        step, training_time = state["clock"]
        # the point itself waits for the quotient, which is built on the worker
        self._resumed = (int(step), float(training_time), dict(state["raw"]), dict(state["canonical"]))

    def _require_same_tensors(self, part: str, saved: Mapping[str, Any]) -> None:
        for name, tensor in named_state(self._model).items():
            other = saved.get(name)
            if not isinstance(other, Tensor) or (other.shape, other.dtype) != (tensor.shape, tensor.dtype):
                found = f"{tuple(other.shape)} {other.dtype}" if isinstance(other, Tensor) else repr(other)
                wanted = f"{tuple(tensor.shape)} {tensor.dtype}"
                raise ValueError(f"{part}[{name!r}]: is {found}, but must be a tensor {wanted}")


@contextmanager
def no_sources_kept() -> Iterator[None]:
    """Forget the source texts of graphs made inside, which torch keeps for tracebacks as long as the process lives.

    Six kilobytes a run for a tiny model: a sweep of thousands of runs in one process would see it grow.
    """
    kept: dict[str, str] = getattr(getattr(graph_module, "_loader", None), "eval_cache", {})
    before = set(kept)
    try:
        yield
    finally:
        for name in set(kept) - before:
            kept.pop(name, None)
            linecache.cache.pop(name, None)


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
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


def _describe(quotient: Quotient, traced: bool) -> tuple[str, ...]:
    """What inference found, in plain sentences."""
    if not traced:
        return ("no step was traced: raw parameters are watched, without symmetries or curvature.",)
    kinds: dict[str, int] = {}
    for group in quotient.groups:
        kinds[group.kind] = kinds.get(group.kind, 0) + group.dim
    total = sum(kinds.values())
    parts = ", ".join(f"{kind} {dim}" for kind, dim in kinds.items() if dim)
    notes = [f"symmetries: {total} redundant directions ({parts or 'none'})."]
    if quotient.blocked:
        notes.append(f"operators without a symmetry rule: {', '.join(sorted(quotient.blocked))}.")
    if quotient.rejected:
        refused = ", ".join(f"{g.kind} {g.name} ({g.residual:.1e})" for g in quotient.rejected)
        notes.append(f"groups the measurement refused: {refused}.")
    return (*notes, *quotient.notes)
