"""The analysis of a run whose parameters are shared out over ranks: the same steps on every rank, at the same time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from shockwatch.engine.description import describe
from shockwatch.engine.engine import Engine
from shockwatch.engine.watched_step import WatchedStep
from shockwatch.memory import available_bytes
from shockwatch.observables.measure import MeasureMotion
from shockwatch.sharding import Channel, Exchange, ShardedQuotient, share_out
from shockwatch.shards import Shard
from shockwatch.snapshot import Observation, Snapshot, State
from shockwatch.symmetry import Quotient

MOST_OF_THE_HOST = 0.5
"""Share of the memory free on rank zero's machine that random stand-ins for all parameters may take."""

_SEED = 20260618
_NO_START = "quotient/distance_from_start"


@dataclass
class ShardedStep:
    """What an engine asks of its step: a quotient, and no loss.

    Attributes:
        found: the quotient, once it is known.
        traced: whether a step was traced.
        errors: of the inference.
    """

    found: ShardedQuotient | None = None
    traced: bool = False
    probes: bool = False
    errors: tuple[Exception, ...] = ()
    loss: None = None
    dtype: None = None

    @property
    def device(self) -> torch.device:
        """The blocks of a rank are in the memory of its host."""
        return torch.device("cpu")

    @property
    def inferred(self) -> bool:
        """Whether the quotient is known."""
        return self.found is not None

    def quotient(self, state: State | None = None) -> Quotient:
        """The quotient the run is watched on."""
        assert self.found is not None
        return self.found

    def take_errors(self) -> list[Exception]:
        """What inference raised since the last call."""
        errors, self.errors = list(self.errors), ()
        return errors


class ShardedEngine(Engine):
    """Cheap observables without curvature; a snapshot holds what lies on its rank.

    Rank zero infers the symmetries, on random numbers in place of the parameters, and hands them to the others. Each
    rank then gathers the blocks it watches (:func:`~shockwatch.sharding.share_out`): no rank has the whole model.
    All ranks process the same snapshots; the first error of one ends the analysis of all.

    Args:
        layout: of the tensors on this rank.
        channel: of the threads that process.
        traced: the step, on rank zero.
        horizon: see :class:`Engine`.
        seed: see :class:`Engine`.
        mean_run_length: see :class:`Engine`.
    """

    def __init__(
        self,
        layout: Mapping[str, Shard],
        channel: Channel,
        traced: WatchedStep | None,
        horizon: int,
        seed: int,
        *,
        mean_run_length: float = 1000.0,
    ) -> None:
        self._shared = ShardedStep()
        super().__init__(self._shared, horizon, seed, mean_run_length=mean_run_length)  # type: ignore[arg-type]
        self._strict = True
        # a layer's units lie on several ranks
        self._observables = [o for o in self._observables if not isinstance(o, MeasureMotion)]
        self._layout = dict(layout)
        self._channel = channel
        self._traced = traced
        self._exchange: Exchange | None = None
        self._resumed_path = False

    def prepare(self, snapshot: Snapshot) -> None:
        """Infer and verify the symmetries on rank zero, and share the blocks out."""
        if self._exchange is not None:
            return
        try:
            self._prepare(snapshot)
        except BaseException:
            self._channel.abort()
            raise

    def process(self, snapshot: Snapshot, probe: bool) -> Observation:
        """All cheap scalars of one snapshot, the same on every rank.

        Raises:
            LostRankError: if another rank has given up.
        """
        self.prepare(snapshot)
        assert self._exchange is not None
        try:
            own = {**_replicated(snapshot.state, self._layout), **self._exchange(snapshot.state)}
            seen = super().process(replace(snapshot, state=own), False)
        except BaseException:
            self._channel.abort()
            raise
        missing = {"quotient/measure_speed": math.nan}
        if self._resumed_path:
            missing[_NO_START] = math.nan
        return replace(seen, values={**seen.values, **missing})

    def state_dict(self) -> dict[str, Any]:
        """Without the tensors: those of one rank would be of no use to another."""
        state = super().state_dict()
        state["observables"] = {
            name: {key: value for key, value in own.items() if key != "start"} | {"start": None}
            if "start" in own
            else own
            for name, own in state["observables"].items()
        }
        return {**state, "canonical": None, "raw": None, "clock": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; the distance from the start is not known any more.

        Raises:
            ValueError: if the state is that of a run whose parameters were not shared out.
        """
        if state["canonical"] is not None:
            raise ValueError("canonical: is of a run on one rank, but must be None")
        super().load_state_dict(state)
        self._resumed_path = True

    def _prepare(self, snapshot: Snapshot) -> None:
        layouts = self._channel.gather(self._layout)
        trainable = {name: shard for name, shard in self._layout.items() if shard.trainable}
        found: tuple[Any, ...] | None = None
        if self._channel.rank == 0:
            whole, traced = self._infer(snapshot.state)
            found = (whole, traced, self._errors_of_inference())
        whole, traced, errors = self._channel.hand_out(found)
        sizes = {name: trainable[name].bytes for name in whole.names}
        plan = share_out(whole.groups, sizes, self._channel.size)
        entries = {name: trainable[name].numel for name in whole.names}
        self._exchange = Exchange(layouts, plan.owner, self._channel)
        self._shared.found = ShardedQuotient(whole, plan, entries, self._channel)
        self._shared.traced, self._shared.errors = traced, errors
        self._traced = None

    def _infer(self, local: State) -> tuple[Quotient, bool]:
        """The quotient of the whole model, and whether a step was traced; on rank zero."""
        names = [name for name, shard in self._layout.items() if shard.trainable]
        if self._traced is None or not self._traced.traced:
            return Quotient((), names), False
        need = sum(shard.bytes for shard in self._layout.values() if not shard.whole)
        if need > MOST_OF_THE_HOST * available_bytes():
            note = (
                f"random stand-ins for the parameters would take {need >> 20} MiB, more than half of what is free on "
                "this machine: raw parameters are watched, without symmetries."
            )
            return Quotient((), names, notes=(note,)), True
        generator = torch.Generator().manual_seed(_SEED)
        state = {
            name: local[name].view(shard.shape) if shard.whole else _stand_in(shard, generator)
            for name, shard in self._layout.items()
        }
        return self._traced.quotient(state), self._traced.traced

    def _errors_of_inference(self) -> tuple[Exception, ...]:
        errors = [] if self._traced is None else self._traced.take_errors()
        # not every exception can be handed on
        return tuple(RuntimeError(f"{type(error).__name__}: {error}") for error in errors)

    def _describe(self, quotient: Quotient, state: State) -> tuple[str, ...]:
        assert isinstance(quotient, ShardedQuotient)
        plan, whole = quotient.plan, quotient.whole
        said = list(describe(whole, self._shared.traced, quotient.degenerate(state)))
        shares = [sum(self._layout[n].bytes for n in plan.names(rank)) for rank in range(self._channel.size)]
        largest = max(shares) / max(sum(shares), 1)
        said.append(
            f"parameters are shared out over {self._channel.size} ranks; the blocks of a rank are at most "
            f"{largest:.0%} of the model. There is no curvature, hence no forecast."
        )
        if plan.across:
            said.append(
                f"{len(plan.across)} groups of factors reach over several ranks and are balanced from sums over each; "
                "raw/drift, which would need them together, is NaN."
            )
        if plan.left_out:
            dim = sum(group.dim for group in plan.left_out)
            names = ", ".join(f"{group.kind} {group.name}" for group in plan.left_out[:3])
            more = ", ..." if len(plan.left_out) > 3 else ""
            said.append(
                f"groups that would need the tensors of several ranks at once are left out, {dim} directions: {names}"
                f"{more}. What training does along them counts as motion."
            )
        return tuple(said)


def _replicated(state: State, layout: Mapping[str, Shard]) -> State:
    """Running statistics and the like, which every rank has; groups move some of them along."""
    own = {n: layout[n] for n in state if not layout[n].trainable and layout[n].whole}
    return {n: state[n].view(shard.shape) for n, shard in own.items()}


def _stand_in(shard: Shard, generator: torch.Generator) -> Tensor:
    """Random numbers of the size that a layer keeps its signals at: about one."""
    noise = torch.randn(shard.shape, generator=generator)
    if len(shard.shape) < 2:
        return (1.0 + 0.3 * noise).to(shard.dtype)
    return noise.mul_(math.prod(shard.shape[1:]) ** -0.5).to(shard.dtype)
