"""Blocks on several ranks, which are threads here: every model of the symmetry tests as one rank sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from shockwatch.sharding import Plan, ShardedQuotient, share_out
from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.gauge import Gauge
from shockwatch.symmetry.groups import Permutation
from tests.symmetry.cases import CASES, Case, state_of


class Meeting:
    """Where the threads put what they say."""

    def __init__(self, size: int) -> None:
        self.said: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=60.0)


class Thread:
    """A channel between threads."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self._meeting = rank, len(meeting.said), meeting

    def gather(self, thing: Any) -> list[Any]:
        self._meeting.said[self.rank] = thing
        self._meeting.barrier.wait()
        things = list(self._meeting.said)
        self._meeting.barrier.wait()
        return things

    def sum(self, values: Tensor) -> Tensor:
        parts = self.gather(values.clone())
        assert len({part.shape for part in parts}) == 1, "ranks say different things"
        return torch.stack(parts).sum(0)

    def total(self, value: float) -> float:
        return float(self.sum(torch.tensor(value, dtype=torch.float64)))

    def least(self, value: int) -> int:
        return min(self.gather(value))

    def first(self, values: Tensor) -> Tensor:
        return self.gather(values.clone())[0]


def on_ranks(size: int, work: Callable[[Thread], Any]) -> list[Any]:
    meeting = Meeting(size)
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(Thread(rank, meeting))
        except BaseException as error:
            results[rank] = error
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, threading.BrokenBarrierError):
            raise result
    return results


def path(quotient: Quotient, states: list[dict[str, Tensor]]) -> dict[str, float]:
    """What observables ask for along three states of a run."""
    gauge, turn = Gauge(), Gauge()
    # no frame is chosen over several ranks
    first = quotient.balance(states[0])
    second = quotient.canonicalize(states[1], first, gauge)
    third = quotient.canonicalize(states[2], second, gauge)
    return {
        "norm": quotient.norm(third),
        "speed": quotient.euclidean(third, second),
        "from start": quotient.euclidean(quotient.align(third, first, turn), first),
        "raw": quotient.norm(states[2]),
        "dim": float(quotient.dim),
        "count": float(quotient.count(third)),
        **quotient.invariants(third),
        **quotient.imbalance(states[2]),
    }


def planned(case: Case, size: int) -> tuple[Quotient, Plan, list[dict[str, Tensor]]]:
    model = case.model()
    whole = infer_symmetries(model, case.loss, case.data())
    start = state_of(model)
    g = torch.Generator().manual_seed(1)
    states = [start]
    for _ in range(2):
        last = states[-1]
        moved = {
            n: last[n] + 0.005 * torch.randn(last[n].shape, generator=g, dtype=last[n].dtype)
            for n in whole.names
        }
        states.append({**last, **moved})
    return whole, share_out(whole.groups, {n: start[n].numel() for n in whole.names}, size), states


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_numbers_of_several_ranks_are_those_of_one(case: Case, size: int) -> None:
    whole, plan, states = planned(case, size)
    one = Quotient([g for g in whole.groups if g not in plan.left_out], whole.names)
    wanted = path(one, states)
    sizes = {n: states[0][n].numel() for n in whole.names}
    others = {n for n in states[0] if n not in sizes}

    def work(channel: Thread) -> dict[str, float]:
        quotient = ShardedQuotient(whole, plan, sizes, channel)  # type: ignore[arg-type]
        own = {*plan.names(channel.rank), *others}
        return path(quotient, [{n: t.clone() for n, t in state.items() if n in own} for state in states])

    found = on_ranks(size, work)
    assert all(repr(found[0]) == repr(other) for other in found), "bit for bit"
    assert set(found[0]) == set(wanted)
    for tag, value in wanted.items():
        assert found[0][tag] == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True), tag


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_group_has_its_place_and_every_rank_its_share(case: Case) -> None:
    whole, plan, states = planned(case, 2)
    sizes = {n: states[0][n].numel() for n in whole.names}
    placed = [*plan.inside[0], *plan.inside[1], *plan.across, *plan.left_out, *plan.reordering]
    assert sorted(map(id, placed)) == sorted(map(id, whole.groups))
    assert all(isinstance(group, Permutation) for group in plan.reordering)
    assert list(plan.owner) == list(sizes)
    for rank in (0, 1):
        own = set(plan.names(rank))
        assert all({n for n in g.parameters if n in sizes} <= own for g in plan.inside[rank])
    largest = max(sizes.values()) / sum(sizes.values())
    shares = [sum(sizes[n] for n in plan.names(rank)) / sum(sizes.values()) for rank in (0, 1)]
    assert max(shares) <= max(0.75, largest)
