"""The quotient of a model whose blocks lie on several ranks: each canonicalises its own, sums are over all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shockwatch.norms import square_norm
from shockwatch.sharding.across import Across
from shockwatch.sharding.channel import Channel
from shockwatch.sharding.plan import Plan
from shockwatch.symmetry import Quotient
from shockwatch.symmetry.gauge import Gauge
from shockwatch.symmetry.groups import ListPermutation
from shockwatch.symmetry.order import UnitOrder
from shockwatch.symmetry.packing import Packed
from shockwatch.symmetry.projection import HorizontalProjector
from shockwatch.symmetry.quotient import extreme

_MOST_SWEEPS = 1000
_PATIENCE = 4


class ShardedQuotient(Quotient):
    """States hold the tensors of this rank; every number is that of the whole model, and the same on every rank.

    Every method that returns numbers, or finds a canonical point, is a collective: all ranks call it in the same order.
    It is what :class:`~shockwatch.symmetry.Quotient` is, by the groups of the plan that are not left out, but for

    - the canonical point of a first state, whose rotations, signs and order of units stay as they are: distances do
      not depend on that;
    - :meth:`match`, which finds nothing: training does not reorder units.

    Args:
        whole: the quotient of the unsharded model.
        plan: who watches what.
        sizes: numbers of entries of all trainable tensors.
        channel: of the threads that call.
    """

    def __init__(self, whole: Quotient, plan: Plan, sizes: Mapping[str, int], channel: Channel) -> None:
        own = plan.names(channel.rank)
        super().__init__(plan.inside[channel.rank], own, blocked=whole.blocked)
        self.whole = whole
        self.plan = plan
        self._channel = channel
        self._count = sum(sizes.values())
        self._across = Across(plan.across, set(own), channel)

    @property
    def dim(self) -> int:
        return self.whole.dim - sum(group.dim for group in self.plan.left_out)

    def count(self, state: Mapping[str, Tensor]) -> int:
        return self._count

    def finite(self, state: Mapping[str, Tensor]) -> bool:
        return bool(self._channel.least(int(super().finite(state))))

    def degenerate(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        return self._union(super().degenerate(state))

    def balance(self, state: Mapping[str, Tensor]) -> Packed:
        moved = self.pack(state)
        with torch.no_grad():
            self._balance_(moved, Gauge())
        return moved

    def canonicalize(
        self,
        state: Mapping[str, Tensor],
        reference: Mapping[str, Tensor] | None = None,
        gauge: Gauge | None = None,
    ) -> Packed:
        gauge = Gauge() if gauge is None else gauge
        if reference is not None and not self.plan.across:
            return super().canonicalize(state, reference, gauge)
        moved = self.pack(state)
        with torch.no_grad():
            self._balance_(moved, gauge)
        return moved if reference is None else self.align(moved, reference)

    def align(
        self, state: Mapping[str, Tensor], reference: Mapping[str, Tensor], gauge: Gauge | None = None
    ) -> Packed:
        if not self.plan.across:
            return super().align(state, reference, gauge)
        moved = self.pack(state)
        if self.euclidean(moved, reference) == 0.0:
            return moved  # as one process does: no rounding where there is nothing to turn
        with torch.no_grad():
            target = self._packed(reference)
            self._across.turn_(moved, target)
            self._acting(state).align_(moved, target)
        return moved

    def begin(self, state: Mapping[str, Tensor], gauge: Gauge) -> tuple[Packed, UnitOrder]:
        return self.canonicalize(state, None, gauge), UnitOrder()

    def in_order(self, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> bool:
        return True

    def match_with_order(
        self, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]
    ) -> tuple[Packed, UnitOrder]:
        return self._packed(state), UnitOrder()

    def euclidean(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
        return math.sqrt(self.square_norm(self.difference(a, b)))

    def norm(self, state: Mapping[str, Tensor]) -> float:
        return math.sqrt(self._channel.total(super().norm(state) ** 2))

    def square_norm(self, vector: Tensor) -> float:
        return self._channel.total(square_norm(vector))

    def invariants(self, point: Mapping[str, Tensor]) -> dict[str, float]:
        values: dict[str, float] = {}
        for part in self._channel.gather(super().invariants(point)):
            for tag, value in part.items():
                # heads of one list may lie on several ranks
                values[tag] = extreme(tag, value, values.get(tag, value))
        return values

    @property
    def _lists(self) -> list[ListPermutation]:
        return [g for g in self.whole.groups if isinstance(g, ListPermutation)]

    def imbalance(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        across = self._across.imbalance(self._packed(state)) if self._across.scales else {}
        values = {f"raw/imbalance/{name}": value for name, value in across.items()}
        return {**self._union(super().imbalance(state)), **values}

    def projector(self, state: Mapping[str, Tensor], **options: Any) -> HorizontalProjector:
        # where groups reach over ranks its parts are coupled: one rank's own would say nothing, at a high price
        own = None if self.plan.across else super().projector(state, **options)
        return _OverRanks(own, self._channel)

    def _union(self, values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for part in self._channel.gather(values) for key, value in part.items()}

    def _balance_(self, state: Packed, gauge: Gauge) -> None:
        """Closed forms inside the ranks and factors across them, in turn until nothing moves."""
        acting, across = self._acting(state), self._across
        if not across.scales:
            acting.balance_(state, gauge)
            return
        total = across.remembered(gauge)
        across.scale_(state, total)
        acting.balance_(state, gauge)
        wide = state.flat is not None and state.flat.dtype == torch.float64
        tolerance = 1e-13 if wide else 3e-7
        least, since = math.inf, 0
        for _ in range(_MOST_SWEEPS):
            logs = across.balancing_logs(state, tolerance)
            across.scale_(state, logs)
            total = total + logs
            # the same on every rank, and said by rank zero
            moved = float(logs.abs().max())
            if moved < tolerance:
                break
            least, since = (moved, 0) if moved < least else (least, since + 1)
            if since >= _PATIENCE and least < 1e4 * tolerance:
                break
            acting.balance_(state)
        across.remember(gauge, total)


class _OverRanks(HorizontalProjector):
    """The projection of all ranks; not known (None) where groups reach over them."""

    def __init__(self, own: HorizontalProjector | None, channel: Channel) -> None:
        self._own, self._channel = own, channel

    def vertical_norm(self, tangent: Mapping[str, Tensor]) -> float:
        if self._own is None:
            return math.nan
        return math.sqrt(self._channel.total(self._own.vertical_norm(tangent) ** 2))
