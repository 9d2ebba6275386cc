"""From one snapshot to its scalars: the analysis that runs on the background thread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from shockwatch.capture import named_state
from shockwatch.engine.description import describe
from shockwatch.engine.look import CurvatureLook
from shockwatch.engine.watched_step import WatchedStep
from shockwatch.memory import products_within
from shockwatch.observables import OBSERVABLES, Point
from shockwatch.phase import PhaseIndicators
from shockwatch.shock.trajectory import TrajectoryForecaster
from shockwatch.snapshot import Observation, Picture, Snapshot, State
from shockwatch.symmetry import Declared, Quotient
from shockwatch.symmetry.gauge import Gauge
from shockwatch.symmetry.order import UnitOrder
from shockwatch.tracing import LossFunction

JUMP = 0.3
"""A move by this share of the norm between two snapshots asks for a new matching of units."""

PROBE_GRADIENTS, PROBE_PRODUCTS = 120.0, 6000.0
"""Gradients of the loss and inner products of two vectors that together take as long as one probe, about: the guess
until one has been timed. On an MLP of 300,000 parameters the two are alike, elsewhere the gradients weigh more."""

ADAPTIVE_GRADIENTS = 60.0
"""Those that a probe of Adam takes besides: its path, and ten products at the parameters as stored."""


class Engine:
    """Quotient, observables and indicators of one run; snapshots come in step order.

    Holds four copies of the parameters from one snapshot to the next: the last one raw and canonical, the last move,
    and the start; after a probe two more, and up to 20 vectors that the next one starts from (no more than 1 GiB).
    :class:`~shockwatch.engine.SketchedEngine` does without. What they take in all: ``examples/benchmarks/memory.py``.
    Built on the main thread by :meth:`build`; the verification of the symmetry groups waits for the first
    snapshot, on the thread that processes it.

    Args:
        step: the watched step.
        horizon: steps ahead that count as near.
        seed: of every random number drawn here.
        mean_run_length: snapshots of stationary noise per false change point.
    """

    sketched: ClassVar[bool] = False
    """Whether copies of the parameters are gone once a snapshot is analysed."""

    def __init__(
        self, step: WatchedStep, horizon: int, seed: int, *, mean_run_length: float = 1000.0
    ) -> None:
        self._step = step
        self._described = self._said_cramped = False
        self._strict = False
        self._probe_seconds: float | None = None
        self._observables = [make() for make in OBSERVABLES]
        self._look = CurvatureLook(step, horizon, seed)
        self._trajectory = TrajectoryForecaster()
        self._phase = PhaseIndicators(mean_run_length=mean_run_length)
        # the first canonical point has its units in order of size, and all later ones follow
        self._order = UnitOrder()
        self._gauge = Gauge()
        self._resumed: tuple[int, float, State, State] | None = None
        self._previous: Point | None = None

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
        step = WatchedStep.build(model, loss_fn, batch, seed, probe=probe, declared=declared)
        return cls(step, horizon, seed, mean_run_length=mean_run_length)

    @property
    def quotient(self) -> Quotient:
        """The quotient the run is watched on; built at the first call, from the live parameters."""
        return self._step.quotient()

    @property
    def reads_moments(self) -> bool:
        """Whether a probe wants the optimiser's state: where curvature may be measured, and there is memory for it."""
        return self._step.probes and not self.sketched

    @property
    def probe_seconds(self) -> float:
        """What a probe is expected to take; 0 where none is possible, or it is not known."""
        return self._probe_seconds or 0.0

    def prepare(self, snapshot: Snapshot) -> None:
        """Infer and verify the symmetries, at the parameters of ``snapshot``."""
        if not self._step.inferred:
            self._step.quotient({n: t.to(self._step.device) for n, t in snapshot.state.items()})
        if self._probe_seconds is None:
            self._probe_seconds = self._expected(snapshot.state, adaptive=snapshot.moments is not None)

    def _expected(self, state: State, *, adaptive: bool) -> float:
        if self._step.loss is None or not self._room(state):
            return 0.0
        try:
            gradient, product = self._step.time_gradient(state)
        except Exception:
            # the probe will fail alike, and say so: that costs its own values only
            return 0.0
        return (PROBE_GRADIENTS + ADAPTIVE_GRADIENTS * adaptive) * gradient + PROBE_PRODUCTS * product

    def process(self, snapshot: Snapshot, probe: bool) -> Observation:
        """All scalars of one snapshot; with ``probe`` those of curvature too.

        An observable that raises, or the probe, costs its own values and no others.
        """
        self.prepare(snapshot)
        quotient = self._step.quotient()
        notes = () if self._described else self._describe(quotient, snapshot.state)
        self._described = True
        values: dict[str, float] = {}
        pictures: tuple[Picture, ...] = ()
        errors = self._step.take_errors()
        finite = quotient.finite(snapshot.state)
        if finite:
            point = self._point(quotient, snapshot)
            previous = self._previous
            # before anything can fail: the next snapshot measures its way from here
            self._previous = self._remember(point)
            values.update(self._observe(point, previous, errors))
            try:
                speed = values.get("quotient/speed", math.nan)
                values["shock/trajectory_steps"] = self._trajectory_steps(point, previous, speed)
            except Exception as error:
                errors.append(error)
            products = self._room(snapshot.state) if probe and self._step.loss is not None else 0
            if probe and self._step.loss is not None and not products:
                notes += self._cramped()
            if self._step.loss is not None and products:
                path = None
                try:
                    adapted, path = self._look.adapted(self._step.loss, snapshot, most_products=products)
                    values.update(adapted)
                except Exception as error:
                    errors.append(error)
                try:
                    viscosity = values.get("quotient/viscosity", math.nan)
                    seen, shock, news = self._look.see(
                        self._step.loss, point, snapshot, viscosity, most_products=products, path=path
                    )
                    values.update(shock)
                    notes += news
                    pictures, news = self._look.picture(seen, shock, point, snapshot, viscosity)
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

    def _describe(self, quotient: Quotient, state: State) -> tuple[str, ...]:
        return describe(quotient, self._step.traced, quotient.degenerate(state) if self._step.traced else {})

    def _excuse(self, error: Exception, errors: list[Exception]) -> None:
        """Go on with the other observables, unless other ranks are waiting for this one."""
        if self._strict:
            raise error
        errors.append(error)

    def _observe(self, point: Point, previous: Point | None, errors: list[Exception]) -> dict[str, float]:
        values: dict[str, float] = {}
        for observable in self._observables:
            try:
                values.update(observable.compute(point, previous))
            except Exception as error:
                self._excuse(error, errors)
        return values

    def _room(self, state: State) -> int:
        """Products that a probe at ``state`` has memory for."""
        return products_within(sum(state[n].nbytes for n in self._step.quotient().names))

    def _cramped(self) -> tuple[str, ...]:
        said, self._said_cramped = self._said_cramped, True
        return () if said else ("curvature is not measured: its vectors would not fit in free memory.",)

    def _remember(self, point: Point) -> Point:
        """What is kept of ``point`` until the next snapshot."""
        return point

    def _point(self, quotient: Quotient, snapshot: Snapshot) -> Point:
        resumed = self._resumed is not None
        if self._resumed is not None:
            self._previous, self._resumed = Point(*self._resumed, quotient), None
        reference = None if self._previous is None else self._previous.canonical
        raw = quotient.pack(snapshot.state)
        # the snapshot's own buffers are filled again
        raw.update({n: raw[n].clone() for n in raw.shared})
        if reference is None:
            canonical, self._order = quotient.begin(raw, self._gauge)
        else:
            canonical = quotient.canonicalize(self._order.apply(raw), reference, self._gauge)
            moved = quotient.euclidean(canonical, reference)
            far = moved > JUMP * quotient.norm(reference)
            if resumed or (far and not quotient.in_order(canonical, reference)):
                # Units changed places: training does not do that between two snapshots, a gauge change may,
                # and so does a resumed run, which has forgotten their order.
                matched, order = quotient.match_with_order(canonical, reference)
                if quotient.euclidean(matched, reference) < (moved if resumed else moved / 2):
                    canonical, self._order = matched, self._order.then(order)
                    self._gauge.forget()
        return Point(snapshot.step, snapshot.training_time, raw, canonical, quotient)

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

    def state_dict(self) -> dict[str, Any]:
        """What the indicators remember, in plain types and tensors."""
        return {
            "observables": {type(o).__name__: o.state_dict() for o in self._observables},
            **self._look.state_dict(),
            "trajectory": self._trajectory.state_dict(),
            "phase": self._phase.state_dict(),
            "canonical": None if self._previous is None else dict(self._previous.canonical),
            "raw": None if self._previous is None else dict(self._previous.raw),
            "clock": None if self._previous is None else [self._previous.step, self._previous.training_time],
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
        self._look.load_state_dict(state)
        if "trajectory" in state:  # the first releases had none
            self._trajectory.load_state_dict(state["trajectory"])
        self._phase.load_state_dict(state["phase"])
        if state["canonical"] is None:
            return
        for part in ("raw", "canonical"):
            self._require_same_tensors(part, state[part])
        step, training_time = state["clock"]
        # the point itself waits for the quotient, which is built on the worker
        self._resumed = (int(step), float(training_time), dict(state["raw"]), dict(state["canonical"]))

    def _require_same_tensors(self, part: str, saved: Mapping[str, Any]) -> None:
        for name, tensor in named_state(self._step.model).items():
            other = saved.get(name)
            if not isinstance(other, Tensor) or (other.shape, other.dtype) != (tensor.shape, tensor.dtype):
                found = f"{tuple(other.shape)} {other.dtype}" if isinstance(other, Tensor) else repr(other)
                wanted = f"{tuple(tensor.shape)} {tensor.dtype}"
                raise ValueError(f"{part}[{name!r}]: is {found}, but must be a tensor {wanted}")
